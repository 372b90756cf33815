"""Names of the files of a checkpoint, and its `config.json`. They are read without PyTorch."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import LEDGER, ArtifactError, read_json
from evclip_ray.config import flatten, nearest_path
from evclip_ray.data.manifest import row_record
from evclip_ray.models.backbones import find_backbone
from evclip_ray.training.experiment import LOCATION

ADAPTER = "adapter.safetensors"
OPTIMIZER = "optimizer.safetensors"
CONFIG = "config.json"
HISTORY = "history.jsonl"
ROWS = row_record.FILE
FIXED = "fixed.json"
"""Settings that all trials of a study share, in its folder."""


def check_is_checkpoint(folder: Path) -> None:
    """Check that a folder is a checkpoint.

    Raises:
        ArtifactError: It has no trained tensors.
    """
    if not (folder / ADAPTER).is_file():
        hint = f"; did you mean {folder / 'best'}?" if (folder / "best" / ADAPTER).is_file() else ""
        if not folder.exists():
            raise ArtifactError(f"{folder}: no such checkpoint folder{nearest_path(folder)}")
        raise ArtifactError(f"{folder}: must be a checkpoint folder with {ADAPTER}, found none{hint}")


def read_record(folder: Path) -> dict[str, Any]:
    """Return the `config.json` of a checkpoint, with the new location of the videos if its study has one.

    Raises:
        ArtifactError: The folder is not a checkpoint.
    """
    check_is_checkpoint(folder)
    record = read_json(folder / CONFIG)
    if not isinstance(record, dict):
        raise ArtifactError(f"{folder / CONFIG}: must hold a mapping; the file is damaged")
    return _with_activation(_with_location(record, folder))


def _with_location(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a record with the location of the videos that its study has now."""
    # The folders are STUDY/best and STUDY/trials/TRIAL/best. A study takes a new location over after it has
    # compared the videos by content, see `StudyRows.check`.
    parents = folder.absolute().parents
    files = (parent / FIXED for parent in (parents[0], *parents[2:3]))
    file = next((file for file in files if file.is_file() and (file.parent / "trials").is_dir()), None)
    if file is None:
        return record
    try:
        fixed, data = flatten(read_json(file)), record["experiment"]["data"]
        searched = _searched(file.parent)
    # The study itself reports a damaged file.
    except (ArtifactError, AttributeError, KeyError, TypeError):
        return record
    # A searched setting is that of the trial.
    names = [name for name in LOCATION if f"data.{name}" not in searched]
    location = {name: fixed.get(f"data.{name}") for name in names}
    is_listed = location.get("manifest") is not None and data.get("manifest") is not None
    # All of them are compared: videos that move away from a list that stays have another root alone.
    if not is_listed or location == {name: data.get(name) for name in names}:
        return record
    # `None` is left out, as in the dump of an experiment, apart from the settings that always have an entry.
    location = {name: value for name, value in location.items() if value is not None or name == "root"}
    kept = {name: value for name, value in data.items() if name not in names}
    return {**record, "experiment": {**record["experiment"], "data": {**kept, **location}}}


def _searched(study: Path) -> Collection[str]:
    """Return the paths of the searched settings of a study, none if its ledger is lost."""
    ledger = study / LEDGER
    return read_json(ledger)["inputs"]["search"].keys() if ledger.is_file() else ()


def _with_activation(record: dict[str, Any]) -> dict[str, Any]:
    # Versions without `backbone.activation`, which wrote no conditions, ran every local file with the default
    # of its backbone. The checkpoint must load with what it was trained with.
    weights = record.get("weights", {}).get("clip", "")
    if "conditions" not in record and weights.startswith("file:"):
        backbone = record["experiment"]["backbone"]
        usual = find_backbone(backbone["name"]).activation_of(None)
        backbone.setdefault("activation", usual)
    return record


def without_activation(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an experiment without the activation, which origins of weights contain."""
    backbone = {name: value for name, value in experiment["backbone"].items() if name != "activation"}
    return {**experiment, "backbone": backbone}
