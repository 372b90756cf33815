"""Relation of an evaluation's ledger to a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import file_digest
from evclip_ray.training.checkpoint import ADAPTER

_SAME_RUN = ("method", "optim", "backbone", "seed", "view")
"""Settings that an evaluation and its checkpoint share, for ledgers without the digest of the tensors."""


def is_evaluation_of(ledger: Mapping[str, Any], checkpoint: Path, record: Mapping[str, Any]) -> bool:
    """Return whether an evaluation scored the tensors that a checkpoint has now.

    Args:
        ledger: Ledger of the evaluation.
        checkpoint: Folder of the checkpoint.
        record: Its `config.json`.
    """
    if "adapter" in ledger:
        path = checkpoint / ADAPTER
        return path.is_file() and bool(ledger["adapter"] == file_digest(path))
    # Ledgers of earlier versions: the folder is named after the checkpoint, and the settings must agree.
    inputs, recorded = ledger["inputs"]["experiment"], record["experiment"]
    return all(inputs.get(name) == recorded.get(name) for name in _SAME_RUN)


def has_training_data(ledger: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Return whether an evaluation read the list of videos that a checkpoint was trained on.

    Args:
        ledger: Ledger of the evaluation.
        record: `config.json` of the checkpoint.
    """
    data, trained_on = ledger["inputs"]["experiment"].get("data", {}), record["experiment"]["data"]
    return all(data.get(name) == trained_on.get(name) for name in ("manifest", "root", "world", "synthetic"))
