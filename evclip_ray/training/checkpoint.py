"""Checkpoints: folders with the trained tensors (safetensors) and the config (JSON), without the backbone.

    adapter.safetensors     the method's trained tensors, a few MB
    config.json             the experiment, classes, metrics, weights and versions behind them
    optimizer.safetensors   only in a checkpoint to resume from: AdamW's moments by parameter name
    history.jsonl           only in a checkpoint to resume from: the metrics of every epoch, one line each
    validation.npz          its result on each validation video, if there are any
    validation_epochs.npz   only in a checkpoint to resume from: right or wrong per epoch and video
    rows.parquet            the videos that trained and selected it, see `RowRecord`
    checksums.json          size and CRC-32 of each file but rows.parquet, which checkpoints share
    calibration.json        only in a calibrated checkpoint, added later, see `metrics.calibration`

A checkpoint is written to a temporary folder and renamed, so a crash leaves either the old or the new one. A
checkpoint to resume from keeps its predecessor as `.last.old` until the run has ended. A disk that damages
the newest one then costs one epoch.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from evclip_ray.artifacts import ArtifactError, replacing, write_json, write_text
from evclip_ray.metrics.calibration import FILE as CALIBRATION
from evclip_ray.models.methods.base import Method
from evclip_ray.training.checkpoint_record import ADAPTER as ADAPTER
from evclip_ray.training.checkpoint_record import CONFIG as CONFIG
from evclip_ray.training.checkpoint_record import HISTORY as HISTORY
from evclip_ray.training.checkpoint_record import OPTIMIZER as OPTIMIZER
from evclip_ray.training.checkpoint_record import ROWS as ROWS
from evclip_ray.training.checkpoint_record import read_record as read_record
from evclip_ray.training.checkpoint_record import without_activation as without_activation
from evclip_ray.training.checksums import (
    CHECKSUMS,
    DamagedFile,
    check_checkpoint,
    check_content,
    read_checksums,
    write_checksums,
)
from evclip_ray.training.optim import is_fused
from evclip_ray.training.per_video_scores import EPOCHS_FILE, EpochAnswers, VideoScores


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
    keep_previous: bool = False,
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
        keep_previous: Whether to keep the checkpoint that is replaced, see `previous_of`.
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
        # Checkpoints share the record of rows, which is large: 20 MB for a large data set.
        write_checksums(temporary, left_out=[ROWS])
        # mkdtemp gives access to the owner only, but other users may read a checkpoint.
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)
        _swap(temporary, folder, keep_previous=keep_previous)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy a checkpoint file by file, each one atomically, without the files that a resumed run alone needs.

    Raises:
        DamagedFile: A file of `source` is damaged. Then nothing is copied.
    """
    inode = -1
    while True:
        before, inode = inode, _inode(source)
        try:
            check_checkpoint(source)
            _copy_files(source, target)
            return
        except (DamagedFile, FileNotFoundError) as problem:
            # A running trial replaces its checkpoint, also while it is read.
            if inode == before:
                raise DamagedFile(str(problem)) from None


def _inode(folder: Path) -> int:
    try:
        return folder.stat().st_ino
    except FileNotFoundError:
        return -1


def _copy_files(source: Path, target: Path) -> None:
    left_out = (OPTIMIZER, HISTORY, EPOCHS_FILE)
    written = read_checksums(source)
    if not _has_tensors(target, written):
        # The calibration of an earlier checkpoint must not describe this one.
        (target / CALIBRATION).unlink(missing_ok=True)
    for item in sorted(source.iterdir()):
        if item.name not in (*left_out, CHECKSUMS):
            with replacing(target / item.name) as temporary:
                shutil.copyfile(item, temporary)
    if written is None:
        # Those of an earlier checkpoint must not describe this one.
        (target / CHECKSUMS).unlink(missing_ok=True)
    else:
        write_json(target / CHECKSUMS, {name: sums for name, sums in written.items() if name not in left_out})


def _has_tensors(folder: Path, written: Mapping[str, tuple[int, int]] | None) -> bool:
    """Return whether a folder has the trained tensors with these checksums, as far as they are recorded."""
    # A study copies its best checkpoint again after every trial, which must not remove the calibration.
    with contextlib.suppress(DamagedFile):
        recorded = read_checksums(folder)
        return recorded is not None and written is not None and recorded[ADAPTER] == written[ADAPTER]
    return False


def load_adapter(folder: Path, method: Method) -> None:
    """Load the trained tensors of a checkpoint into `method`.

    Raises:
        ArtifactError: The file is damaged, or its tensors are of another method, size or frame count. The
            first differences are named.
    """
    set_tensors(method, read_tensors(folder / ADAPTER, checked=True), folder)


def set_tensors(method: Method, state: Mapping[str, Tensor], folder: Path) -> None:
    """Set the trained tensors of `method` to those of the checkpoint in `folder`.

    Raises:
        ArtifactError: The tensors are of another method, size or frame count.
    """
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


def set_moments(method: Method, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Restore AdamW's moments for the parameters of `method`."""
    for name, parameter in method.named_parameters():
        # AdamW creates the state of a parameter at its first gradient, so a parameter may have none yet.
        if f"{name}::exp_avg" in moments:
            optimizer.state[parameter] = {
                # Only a fused AdamW has its step counts on the device.
                "step": moments[f"{name}::step"].to(parameter.device if is_fused(optimizer) else "cpu"),
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


def read_tensors(path: Path, *, checked: bool = False) -> dict[str, Tensor]:
    """Read a safetensors file.

    Args:
        path: The file.
        checked: Whether to compare the file with its checksum, if there is one.

    Raises:
        DamagedFile: The file is missing, cut or changed.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    # Other errors, such as a lost disk, are no damage: the same file may be readable later.
    except (FileNotFoundError, SafetensorError) as error:
        raise DamagedFile(f"{path}: cannot be read as safetensors ({error}); the file is damaged") from None
    written = read_checksums(path.parent) if checked else None
    if written and path.name in written:
        check_content(path, written[path.name][1])
    return tensors


def _link(source: Path, target: Path) -> None:
    # The record of a large data set has some 20 MB. A hard link takes no space in each of 1,000 checkpoints.
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _swap(temporary: Path, folder: Path, *, keep_previous: bool) -> None:
    aside = previous_of(folder)
    if folder.exists():
        # A folder cannot replace another in one step. The old one is renamed first, and `latest_checkpoint`
        # finds it there if the process is killed between the two renames.
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    temporary.rename(folder)
    if not keep_previous:
        shutil.rmtree(aside, ignore_errors=True)


def previous_of(folder: Path) -> Path:
    """Return the folder of the predecessor of a checkpoint."""
    return folder.with_name(f".{folder.name}.old")


def kept_checkpoints(folder: Path) -> list[Path]:
    """Return `folder` and its predecessor, those that exist."""
    return [path for path in (folder, previous_of(folder)) if path.is_dir()]


def latest_checkpoint(folder: Path) -> Path | None:
    """Return `folder` if it holds a checkpoint, else the old one that a killed write left, else None."""
    for candidate in (folder, previous_of(folder)):
        if (candidate / CONFIG).is_file() and (candidate / ADAPTER).is_file():
            return candidate
    return None


def latest_readable(folder: Path) -> Path | None:
    """Return the newest checkpoint at `folder` whose record can be read, or None."""
    for candidate in kept_checkpoints(folder):
        with contextlib.suppress(ArtifactError):
            read_record(candidate)
            return candidate
    return None
