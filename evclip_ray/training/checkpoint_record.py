"""Names of the files of a checkpoint, and its `config.json`. They are read without PyTorch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import ArtifactError, read_json
from evclip_ray.data.manifest import row_record
from evclip_ray.models.backbones import find_backbone

ADAPTER = "adapter.safetensors"
OPTIMIZER = "optimizer.safetensors"
CONFIG = "config.json"
HISTORY = "history.jsonl"
ROWS = row_record.FILE


def check_is_checkpoint(folder: Path) -> None:
    """Check that a folder is a checkpoint.

    Raises:
        ArtifactError: It has no trained tensors.
    """
    if not (folder / ADAPTER).is_file():
        hint = f"; did you mean {folder / 'best'}?" if (folder / "best" / ADAPTER).is_file() else ""
        raise ArtifactError(f"{folder}: must be a checkpoint folder with {ADAPTER}, found none{hint}")


def read_record(folder: Path) -> dict[str, Any]:
    """Return the `config.json` of a checkpoint.

    Raises:
        ArtifactError: The folder is not a checkpoint.
    """
    check_is_checkpoint(folder)
    record = read_json(folder / CONFIG)
    if not isinstance(record, dict):
        raise ArtifactError(f"{folder / CONFIG}: must hold a mapping; the file is damaged")
    return _with_activation(record)


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
