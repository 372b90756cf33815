"""Stored size of the frames, and selection, of studies whose settings do not name them.

Versions up to 0.1 stored frames of 256 x 256 pixels by default (`view.fit=crop`); the present default keeps
the aspect ratio. A study writes the default that it began with to `fixed.json`, as `view.fit`. A file without
it is from one of those versions, and the study keeps their default.

The preset `published` of those versions had no `data.selection`. It is written and kept in the same way.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import ArtifactError, read_json
from evclip_ray.config import Overrides, flatten
from evclip_ray.training.checkpoint import CONFIG
from evclip_ray.training.experiment import PRESETS, ExperimentConfig
from evclip_ray.tuning.search_space import SearchSpace

log = logging.getLogger(__name__)
_FIT = "view.fit"
_BEFORE = {_FIT: "crop"}
_PRESET, _SELECTION = "preset", "data.selection"


def trial_experiment(fixed: Mapping[str, Any], overrides: Overrides) -> ExperimentConfig:
    """Return the experiment of a trial.

    Args:
        fixed: Content of the study's `fixed.json`.
        overrides: Point of the trial.
    """
    settings = {**flatten(fixed), **overrides}
    before: dict[str, Any] = {} if _names_fit(settings) else dict(_BEFORE)
    if _needs_selection(settings):
        before[_SELECTION] = None
    return ExperimentConfig.load(fixed, {**before, **overrides})


def with_own_view(space: SearchSpace, studies: Iterable[Path]) -> SearchSpace:
    """Return a space that names `view.fit`, unless its own settings decide it, and a preset's selection.

    Args:
        space: Search space.
        studies: `fixed.json` of the study, and of studies that it continues. The first that exists gives the
            default; without one, the default is that of the present version.
    """
    fixed = flatten(space.fixed)
    named = {**fixed, **{axis.path: None for axis in space.search}}
    found = (_settings_of(path) for path in studies)
    written = next((settings for settings in found if settings is not None), None)
    if _needs_selection(named):
        preset = PRESETS.get(str(fixed.get(_PRESET)), {}) if written is None else flatten(written)
        return space.replace({_SELECTION: preset.get(_SELECTION)})
    if _names_fit(named):
        return space
    if written is not None:
        earlier = flatten(written)
        return space.replace({_FIT: earlier.get(_FIT, _BEFORE[_FIT])})
    sized = {"view.height", "view.width"} & named.keys()
    return space.replace({_FIT: "crop" if sized else "short_side"})


def _settings_of(fixed: Path) -> dict[str, Any] | None:
    """Return the settings that all trials of a study share; None for a study that has not begun.

    A trial's checkpoint has them too, for a study whose file is damaged or missing.
    """
    problem = f"{fixed}: is missing"
    if fixed.is_file():
        try:
            return dict(read_json(fixed))
        except (ArtifactError, TypeError, ValueError) as error:
            problem = str(error)
    for path in sorted(fixed.parent.glob(f"trials/trial-*/*/{CONFIG}")):
        try:
            settings = dict(read_json(path)["experiment"])
        except (ArtifactError, KeyError, TypeError, ValueError):
            continue
        log.warning("%s; its settings are read from %s", problem, path)
        return settings
    return None


def _names_fit(settings: Mapping[str, Any]) -> bool:
    # A preset has a view of its own.
    return _FIT in settings or _PRESET in settings


def _needs_selection(settings: Mapping[str, Any]) -> bool:
    return _PRESET in settings and _SELECTION not in settings
