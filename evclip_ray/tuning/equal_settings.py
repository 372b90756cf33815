"""Comparison of the settings of a resumed study with the recorded ones by value: 1e-2 and 0.01 are equal.

The location of the videos is not compared where the study has a record of its videos: with a moved list, it
is the same study if its videos are the same by content, which `StudyRows.check` decides.
"""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from evclip_ray.artifacts import LEDGER, ArtifactError
from evclip_ray.claimed_folder import ClaimedFolder
from evclip_ray.config import ConfigError, flatten, override
from evclip_ray.training.experiment import LOCATION, ExperimentConfig

_ROWS = ("rows/*.parquet", "rungs/*/rows/*.parquet")
"""Records of the videos of a study, and of the steps of a ladder."""
_ITEM = re.compile(r"(?<=[(\[ ])[^(),\[\] ]+(?=[,)\]])")
"""Item of a list in the text of a distribution."""


def as_recorded(identity: Mapping[str, Any], folder: ClaimedFolder) -> dict[str, Any]:
    """Return an identity with each entry as the ledger of `folder` has it, where the two have equal values.

    PyYAML reads `1e-2` as text and `0.01` as a number, so two spellings of one value have two digests. The
    digests are on disk and cannot change. Fixed settings that differ in the location of the videos alone are
    those of the ledger too, see `begun_location`.

    Args:
        identity: Identity of the space that is given now, with the entries `fixed` and `search`.
        folder: Folder of a study or ladder that may have begun.
    """
    recorded = _recorded(folder)
    if recorded is None:
        return dict(identity)
    before, now = _by_value(recorded), _by_value(identity)
    if begun_location(identity, folder) is not None:
        before["fixed"] = now["fixed"]
    return {
        name: recorded[name] if name in before and before[name] == now[name] else value
        for name, value in identity.items()
    }


def begun_location(identity: Mapping[str, Any], folder: ClaimedFolder) -> dict[str, Any] | None:
    """Return where the videos of a study or ladder were when it began, if they have another location now.

    Returns None for videos that have not moved, if other fixed settings differ as well, or if the folder has
    no record of its videos by content, as of version 0.1.

    Args:
        identity: As for `as_recorded`.
        folder: As for `as_recorded`.

    Returns:
        Value of each setting of `LOCATION`.
    """
    recorded = _recorded(folder)
    if recorded is None or not any(next(folder.root.glob(rows), None) for rows in _ROWS):
        return None
    before, now = (_by_value(each)["fixed"] for each in (recorded, identity))
    paths = [f"data.{name}" for name in LOCATION]
    others = [
        {path: value for path, value in fixed.items() if path not in paths and value is not None}
        for fixed in (before, now)
    ]
    is_moved = others[0] == others[1] and "data.manifest" in before.keys() & now.keys()
    begun = {path: before.get(path) for path in paths}
    if not is_moved or begun == {path: now.get(path) for path in paths}:
        return None
    return {name: begun[f"data.{name}"] for name in LOCATION}


def _recorded(folder: ClaimedFolder) -> dict[str, Any] | None:
    """Return the identity in the ledger of a folder, None if there is none."""
    recorded: Any = None
    if (folder.root / LEDGER).is_file():
        # `ClaimedFolder.check` reports a damaged ledger.
        with contextlib.suppress(ArtifactError):
            recorded = folder.ledger().get("inputs")
    return recorded if isinstance(recorded, dict) else None


def _by_value(identity: Mapping[str, Any]) -> dict[str, Any]:
    search = {path: _numbers(text) for path, text in identity.get("search", {}).items()}
    return {**identity, "fixed": _validated(identity.get("fixed", {})), "search": search}


def _validated(fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given settings by path, with the values that the experiment's schema makes of them."""
    given = flatten(fixed)
    try:
        valid = flatten(ExperimentConfig.load(override({}, fixed)).model_dump(mode="json"))
    # An earlier version had settings that this one does not have.
    except ConfigError:
        return given
    # Only given paths: a default that is written out may differ from the one that the study began with.
    return {path: valid.get(path, value) for path, value in given.items()}


def _numbers(text: str) -> str:
    """Return the text of a distribution with equal numbers written in one way: `int(1, 4)`, `choice(8.0)`."""
    return _ITEM.sub(lambda item: _number(item.group()), text)


def _number(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return text
    # Python writes no number as 1e-2: this is a text among choices, which Optuna tells from the number.
    return repr(number) if text in (repr(number), f"{number:.0f}") else text
