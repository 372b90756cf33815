"""Checkpoints: folders with the trained tensors (safetensors) and the config (JSON), without the backbone.

    adapter.safetensors     the method's trained tensors, a few MB
    config.json             the experiment, classes, metrics, weights and versions behind them
    optimizer.safetensors   only in a checkpoint to resume from: AdamW's moments by parameter name
    history.jsonl           only in a checkpoint to resume from: the metrics of every epoch, one line each
    validation.npz          its result on each validation video, if there are any
    validation_epochs.npz   only in a checkpoint to resume from: right or wrong per epoch and video
    rows.parquet            the videos that trained and selected it, see `RowRecord`

A checkpoint is written to a temporary folder and renamed, so a crash leaves either the old or the new one.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from evclip_ray.artifacts import ArtifactError, read_history, read_json, write_json, write_text
from evclip_ray.data.manifest import row_record
from evclip_ray.models.backbones import find_backbone
from evclip_ray.models.methods.base import Method
from evclip_ray.records import EpochMetrics
from evclip_ray.training.per_video_scores import EpochAnswers, VideoScores

ADAPTER = "adapter.safetensors"
OPTIMIZER = "optimizer.safetensors"
CONFIG = "config.json"
HISTORY = "history.jsonl"
ROWS = row_record.FILE


def save_checkpoint(
    folder: Path,
    method: Method,
    record: Mapping[str, Any],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    scores: VideoScores | None = None,
    history: str | None = None,
    rows: Path | None = None,
    answers: EpochAnswers | None = None,
) -> None:
    """Write a checkpoint atomically.

    Args:
        folder: Folder of the checkpoint; an earlier checkpoint there is replaced.
        method: Method whose trained tensors are saved.
        record: Content of `config.json`.
        optimizer: Optimizer whose moments are saved, for a checkpoint to resume from.
        scores: Results on each validation video.
        history: Text of `history.jsonl`.
        rows: File of the record of rows.
        answers: Answers of every epoch on each validation video.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # In the same parent folder: a rename is atomic only within one file system.
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        save_file(_on_cpu(method.state_dict()), temporary / ADAPTER)
        if optimizer is not None:
            save_file(_moments(method, optimizer), temporary / OPTIMIZER)
        if scores is not None:
            scores.write(temporary)
        if history is not None:
            write_text(temporary / HISTORY, history)
        if answers is not None:
            answers.write(temporary)
        if rows is not None:
            _link(rows, temporary / ROWS)
        write_json(temporary / CONFIG, dict(record))
        # mkdtemp gives access to the owner only, but other users may read a checkpoint.
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)
        _swap(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_record(folder: Path) -> dict[str, Any]:
    """Return the `config.json` of a checkpoint.

    Raises:
        ArtifactError: The folder is not a checkpoint.
    """
    if not (folder / ADAPTER).is_file():
        hint = f"; did you mean {folder / 'best'}?" if (folder / "best" / ADAPTER).is_file() else ""
        raise ArtifactError(f"{folder}: must be a checkpoint folder with {ADAPTER}, found none{hint}")
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


def resumed_history(folder: Path, epochs: int) -> list[EpochMetrics]:
    """Return the metrics of the `epochs` epochs of a checkpoint to resume from.

    Raises:
        ArtifactError: The history is missing, damaged or of another length.
    """
    path = folder / HISTORY
    hint = f"so the run cannot be resumed; remove {folder.parent} to start it again"
    try:
        history = [EpochMetrics.from_record(record) for record in read_history(path)]
    except ArtifactError as error:
        raise ArtifactError(f"{error}, {hint}") from None
    # A wrong number of lines means a damaged or edited file: the best epoch would not match the progress.
    if len(history) != epochs:
        raise ArtifactError(f"{path}: must have {epochs} epochs, got {len(history)}, {hint}")
    return history


def load_adapter(folder: Path, method: Method) -> None:
    """Load the trained tensors of a checkpoint into `method`.

    Raises:
        ArtifactError: The file is damaged, or its tensors are of another method, size or frame count. The
            first differences are named.
    """
    state = _read_tensors(folder / ADAPTER)
    expected = method.state_dict()
    problems = [f"{name} is missing" for name in expected.keys() - state.keys()]
    problems += [f"{name} is unknown" for name in state.keys() - expected.keys()]
    problems += [
        f"{name} must be {tuple(expected[name].shape)}, got {tuple(state[name].shape)}"
        for name in expected.keys() & state.keys()
        if expected[name].shape != state[name].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:3])
        raise ArtifactError(f"{folder}: does not fit this method ({len(problems)} differences: {shown})")
    method.load_state_dict(state)


def load_optimizer(folder: Path, method: Method, optimizer: torch.optim.Optimizer) -> None:
    """Restore AdamW's moments for the parameters of `method`."""
    moments = _read_tensors(folder / OPTIMIZER)
    for name, parameter in method.named_parameters():
        # AdamW creates the state of a parameter at its first gradient, so a parameter may have none yet. The
        # step count stays on the CPU, where AdamW keeps it.
        if f"{name}::exp_avg" in moments:
            optimizer.state[parameter] = {
                "step": moments[f"{name}::step"],
                "exp_avg": moments[f"{name}::exp_avg"].to(parameter.device),
                "exp_avg_sq": moments[f"{name}::exp_avg_sq"].to(parameter.device),
            }


def _moments(method: Method, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return _on_cpu(
        {
            f"{name}::{key}": value
            for name, parameter in method.named_parameters()
            for key, value in optimizer.state.get(parameter, {}).items()
        }
    )


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses strided tensors and tensors that share memory.
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: cannot be read as safetensors ({error}); the file is damaged") from None


def _link(source: Path, target: Path) -> None:
    # The record of a large data set has some 20 MB. A hard link takes no space in each of 1,000 checkpoints.
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _swap(temporary: Path, folder: Path) -> None:
    if not folder.exists():
        temporary.rename(folder)
        return
    # A folder cannot replace another in one step. The old one is renamed first, and `latest_checkpoint` finds
    # it there if the process is killed between the two renames.
    aside = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    temporary.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return `folder` if it holds a checkpoint, else the old one that a killed write left, else None."""
    for candidate in (folder, folder.with_name(f".{folder.name}.old")):
        if (candidate / CONFIG).is_file() and (candidate / ADAPTER).is_file():
            return candidate
    return None
