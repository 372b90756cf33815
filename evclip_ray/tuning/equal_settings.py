"""Comparison of the settings of a resumed study with the recorded ones by value: 1e-2 and 0.01 are equal."""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from evclip_ray.artifacts import LEDGER, ArtifactError
from evclip_ray.claimed_folder import ClaimedFolder
from evclip_ray.config import ConfigError, flatten, override
from evclip_ray.training.experiment import ExperimentConfig

_ITEM = re.compile(r"(?<=[(\[ ])[^(),\[\] ]+(?=[,)\]])")
"""Item of a list in the text of a distribution."""


def as_recorded(identity: Mapping[str, Any], folder: ClaimedFolder) -> dict[str, Any]:
    """Return an identity with each entry as the ledger of `folder` has it, where the two have equal values.

    PyYAML reads `1e-2` as text and `0.01` as a number, so two spellings of one value have two digests. The
    digests are on disk and cannot change.

    Args:
        identity: Identity of the space that is given now, with the entries `fixed` and `search`.
        folder: Folder of a study or ladder that may have begun.
    """
    recorded: Any = None
    if (folder.root / LEDGER).is_file():
        # `ClaimedFolder.check` reports a damaged ledger.
        with contextlib.suppress(ArtifactError):
            recorded = folder.ledger().get("inputs")
    if not isinstance(recorded, dict):
        return dict(identity)
    before, now = _by_value(recorded), _by_value(identity)
    return {
        name: recorded[name] if name in before and before[name] == now[name] else value
        for name, value in identity.items()
    }


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
