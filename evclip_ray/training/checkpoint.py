"""Checkpoints: a folder with the trained tensors (safetensors) and the config (JSON). Never a backbone.

    adapter.safetensors     the method's trained tensors, a few MB
    config.json             the experiment, classes, metrics, weights and versions behind them
    optimizer.safetensors   only in a checkpoint to resume from: AdamW's moments by parameter name
    history.jsonl           only in a checkpoint to resume from: the metrics of every epoch, a line each
    validation.npz          only in the best checkpoint of a run: what it says of each validation video

A checkpoint is written to a temporary folder and renamed, so that a killed worker leaves the old
one or the new one.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from evclip_ray.artifacts import ArtifactError, read_json, write_json, write_text
from evclip_ray.models.methods.base import Method
from evclip_ray.training.per_video_scores import VideoScores

ADAPTER = "adapter.safetensors"
OPTIMIZER = "optimizer.safetensors"
CONFIG = "config.json"
HISTORY = "history.jsonl"


def save_checkpoint(
    folder: Path,
    method: Method,
    record: Mapping[str, Any],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    scores: VideoScores | None = None,
    history: str | None = None,
) -> None:
    """Write a checkpoint whole or not at all; `record` becomes `config.json`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        save_file(_on_cpu(method.state_dict()), temporary / ADAPTER)
        if optimizer is not None:
            save_file(_moments(method, optimizer), temporary / OPTIMIZER)
        if scores is not None:
            scores.write(temporary)
        if history is not None:
            write_text(temporary / HISTORY, history)
        write_json(temporary / CONFIG, dict(record))
        # What is temporary is its maker's alone; a checkpoint may be read by others.
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)
        _swap(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_record(folder: Path) -> dict[str, Any]:
    """The `config.json` of a checkpoint.

    Raises:
        ArtifactError: not a checkpoint folder.
    """
    if not (folder / ADAPTER).is_file():
        hint = f"; did you mean {folder / 'best'}?" if (folder / "best" / ADAPTER).is_file() else ""
        raise ArtifactError(f"{folder}: must be a checkpoint folder with {ADAPTER}, found none{hint}")
    record = read_json(folder / CONFIG)
    if not isinstance(record, dict):
        raise ArtifactError(f"{folder / CONFIG}: must hold a mapping; it was damaged")
    return record


def read_history(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """The metrics of every epoch, `epochs` of them, of a checkpoint to resume from.

    Raises:
        ArtifactError: there are none, or they were damaged.
    """
    path = folder / HISTORY
    cure = f"the run cannot go on; remove {folder.parent} to start it again"
    try:
        history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}), so {cure}") from None
    except ValueError:
        raise ArtifactError(f"{path}: was damaged, so {cure}") from None
    if len(history) != epochs:
        raise ArtifactError(f"{path}: must have {epochs} epochs, got {len(history)}, so {cure}")
    return history


def load_adapter(folder: Path, method: Method) -> None:
    """Load the trained tensors of a checkpoint into `method`.

    Raises:
        ArtifactError: damaged file, or tensors of another method, size or frame count (the first
            that differ are named).
    """
    state = _read_tensors(folder / ADAPTER)
    wanted = method.state_dict()
    problems = [f"{name} is missing" for name in wanted.keys() - state.keys()]
    problems += [f"{name} is unknown" for name in state.keys() - wanted.keys()]
    problems += [
        f"{name} must be {tuple(wanted[name].shape)}, got {tuple(state[name].shape)}"
        for name in wanted.keys() & state.keys()
        if wanted[name].shape != state[name].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:3])
        raise ArtifactError(f"{folder}: does not fit this method ({len(problems)} differences: {shown})")
    method.load_state_dict(state)


def load_optimizer(folder: Path, method: Method, optimizer: torch.optim.Optimizer) -> None:
    """Restore AdamW's moments for the parameters of `method`."""
    moments = _read_tensors(folder / OPTIMIZER)
    for name, parameter in method.named_parameters():
        if f"{name}::exp_avg" in moments:
            optimizer.state[parameter] = {
                "step": moments[f"{name}::step"],
                "exp_avg": moments[f"{name}::exp_avg"].to(parameter.device),
                "exp_avg_sq": moments[f"{name}::exp_avg_sq"].to(parameter.device),
            }


def _moments(method: Method, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    found = {}
    for name, parameter in method.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{name}::{key}"] = value
    return _on_cpu(found)


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: cannot be read as safetensors ({error}); it was damaged") from None


def _swap(temporary: Path, folder: Path) -> None:
    if not folder.exists():
        temporary.rename(folder)
        return
    # A folder cannot replace a folder in one step: the old one steps aside, and `latest_checkpoint`
    # looks for it there if a kill falls between the two renames.
    aside = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    temporary.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def latest_checkpoint(folder: Path) -> Path | None:
    """`folder` if it holds a checkpoint, else the one that a kill left aside, else None."""
    for candidate in (folder, folder.with_name(f".{folder.name}.old")):
        if (candidate / CONFIG).is_file() and (candidate / ADAPTER).is_file():
            return candidate
    return None
