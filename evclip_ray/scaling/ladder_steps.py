"""A ladder: a search space, and the settings that replace its own in each step.

ladder:                       # in the space's YAML; the command line's --ladder or --over replace it
  over: backbone.name         # any path
  rungs: [RN50, ViT-B-32, ViT-B-16]

ladder:                       # or, if a step changes more than one setting
  rungs:
    small: {backbone.name: ViT-B-16, method.video_encoder.name: swin3d_s}
    large: {backbone.name: ViT-L-14, method.video_encoder.name: swin3d_b}

`share_points: 2` in this section evaluates the 2 best points of each step at every step, see `shared_points`.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from evclip_ray.config import ConfigError, Overrides, flatten, nearest, parse_yaml, read_yaml
from evclip_ray.tuning.search_space import SearchSpace

BACKBONE = "backbone.name"
_PARTS = ["over", "rungs", "share_points"]


@dataclasses.dataclass(frozen=True)
class LadderStep:
    """One study of a ladder. `name`: name of its folder; `settings`: overrides that distinguish it."""

    name: str
    settings: dict[str, Any]
    space: SearchSpace


@dataclasses.dataclass(frozen=True)
class Ladder:
    """A search space and its steps in order.

    Attributes:
        name: Name of the space.
        over: Path in which the steps differ, None for several.
        steps: Steps in order.
        share_points: Number of best points of each step that are evaluated at every step; 0 for none, so
            that each step is searched alone.
    """

    name: str
    over: str | None
    steps: tuple[LadderStep, ...]
    share_points: int = 0

    @classmethod
    def read(
        cls,
        path: Path,
        overrides: Overrides | None = None,
        *,
        over: Mapping[str, Sequence[Any]] | None = None,
        study: Mapping[str, Any] | None = None,
        share_points: int | None = None,
    ) -> Self:
        """Read the ladder of a search space.

        Args:
            path: YAML of the search space.
            overrides: Settings of all steps.
            over: One path with its values, instead of the steps of the YAML.
            study: Settings of the `study` section that replace those of the YAML.
            share_points: Shared points of each step, instead of those of the YAML.

        Raises:
            ConfigError: no step, a step listed twice, an unknown path, or an invalid experiment.
        """
        data = read_yaml(path)
        listed = data.get("ladder")
        # The command line replaces the steps of the YAML as a whole; the two are never merged.
        along, settings = _one_path(over) if over else _listed(listed)
        spaces = {
            name: _space(path.stem, data, name, {**(overrides or {}), **chosen}, study)
            for name, chosen in settings.items()
        }
        steps = tuple(LadderStep(name, settings[name], space) for name, space in spaces.items())
        shared = _share_points(listed) if share_points is None else share_points
        return cls(path.stem, along, steps, shared)

    def domains(self) -> dict[str, tuple[str, tuple[Any, ...]]]:
        """Return the domains for TensorBoard: of the searched settings and of those in which steps differ."""
        differing: dict[str, list[Any]] = {}
        for step in self.steps:
            for path, value in step.settings.items():
                differing.setdefault(path, []).append(value)
        # All steps search the same settings, so the first step has the domains of all.
        return {
            **self.steps[0].space.domains,
            **{path: ("choice", tuple(values)) for path, values in differing.items()},
        }

    @property
    def objective(self) -> str:
        """Objective of the studies, which is the same for all steps."""
        return self.steps[0].space.study.objective

    def identity(self) -> dict[str, Any]:
        """Return the settings that identify a ladder.

        Steps and shared points are not among them, so that some can be added later.
        """
        space = self.steps[0].space
        # Settings that differ between steps are not part of the identity: their values may be extended later.
        step_paths = {path for step in self.steps for path in step.settings}
        study = space.study
        return {
            "search": space.describe()["search"],
            "fixed": {path: value for path, value in flatten(space.fixed).items() if path not in step_paths},
            "along": sorted(step_paths),
            "seed": study.seed,
            "scheduler": study.scheduler,
            "sampler": study.sampler,
        }


def parse_over(text: str) -> dict[str, list[Any]]:
    """Parse `data.shots=2,4,8` as a path and its values in YAML.

    Raises:
        ConfigError: the path or the values are missing.
    """
    path, equals, values = text.partition("=")
    if not equals or not path.strip() or not values.strip():
        raise ConfigError(f"--over needs PATH=VALUE,VALUE,..., got {text!r}; for example data.shots=2,4,8")
    return {path.strip(): [_value(value) for value in values.split(",")]}


def _value(text: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        raise ConfigError(f"--over: {text!r} is not a YAML value") from None


def _one_path(over: Mapping[str, Sequence[Any]]) -> tuple[str, dict[str, dict[str, Any]]]:
    if len(over) != 1:
        raise ConfigError(
            f"a ladder climbs along one path, got {', '.join(over)}; give --ladder or --over, once"
        )
    ((path, values),) = over.items()
    settings: dict[str, dict[str, Any]] = {}
    for value in values:
        name = _name(path, value)
        if name in settings:
            raise ConfigError(f"ladder: the step {name!r} is listed twice; list each once")
        settings[name] = {path: value}
    if not settings:
        raise ConfigError("ladder: needs at least one step, got none")
    return path, settings


def _share_points(listed: Any) -> int:
    number = listed.get("share_points", 0) if isinstance(listed, Mapping) else 0
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ConfigError(f"ladder.share_points: must be a whole number from 0, got {number!r}")
    return number


def _listed(listed: Any) -> tuple[str | None, dict[str, dict[str, Any]]]:
    if listed is None:
        raise ConfigError(
            "the space has no `ladder` section; give --ladder RN50,ViT-B-32 or --over data.shots=2,4,8"
        )
    if not isinstance(listed, Mapping) or not set(listed) <= set(_PARTS):
        wrong = (
            next((key for key in listed if key not in _PARTS), "") if isinstance(listed, Mapping) else listed
        )
        raise ConfigError(f"ladder: unknown key {wrong!r}; {nearest(str(wrong), _PARTS)}")
    steps = listed.get("rungs")
    if isinstance(steps, list):
        return _one_path({str(listed.get("over", BACKBONE)): steps})
    if not isinstance(steps, Mapping) or not all(isinstance(chosen, Mapping) for chosen in steps.values()):
        raise ConfigError(f"ladder.rungs: must be a list of values, or name -> settings, got {steps!r}")
    if not steps or "over" in listed:
        raise ConfigError("ladder: needs `rungs`, and `over` only with a list of values")
    named = {_plain(str(name)): flatten(chosen) for name, chosen in steps.items()}
    # Two names may become equal when their special characters are replaced; they would share a folder.
    if len(named) < len(steps):
        raise ConfigError(f"ladder: the names of steps must differ, got {', '.join(map(str, steps))}")
    return None, named


def _space(
    name: str, data: Mapping[str, Any], step: str, overrides: Overrides, study: Mapping[str, Any] | None
) -> SearchSpace:
    try:
        return SearchSpace.load(name, data, overrides, study=study)
    except ConfigError as error:
        raise ConfigError(f"step {step}: {error}") from None


def _name(path: str, value: Any) -> str:
    return _plain(str(value) if path == BACKBONE else f"{path.rpartition('.')[2]}-{value}")


def _plain(name: str) -> str:
    # The name is a folder: other characters, such as the slash of a path, are replaced.
    return re.sub(r"[^\w.-]+", "-", name)
