"""State of a run to resume from, read as a whole from the newest checkpoint that is not damaged."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from evclip_ray.artifacts import ArtifactError, read_history
from evclip_ray.formatting import counted
from evclip_ray.records import EpochMetrics
from evclip_ray.training.checkpoint import (
    ADAPTER,
    HISTORY,
    OPTIMIZER,
    kept_checkpoints,
    latest_checkpoint,
    read_record,
    read_tensors,
)
from evclip_ray.training.checksums import DamagedFile, check_checkpoint
from evclip_ray.training.per_video_scores import EpochAnswers

DAMAGED = "damaged"
"""Folder in a run's folder with the files that could not be read."""


@dataclasses.dataclass(frozen=True)
class SavedState:
    """Content of a checkpoint to resume from, read and checked as a whole.

    Attributes:
        checkpoint: Its folder.
        record: Content of its `config.json`.
        history: Metrics of its epochs.
        answers: Answers of every epoch; None for a run of an earlier version.
        tensors: Trained tensors.
        moments: Moments of the optimiser; empty for a run that has ended.
    """

    checkpoint: Path
    record: dict[str, Any]
    history: list[EpochMetrics]
    answers: EpochAnswers | None
    tensors: dict[str, Tensor]
    moments: dict[str, Tensor]

    @classmethod
    def read(cls, checkpoint: Path) -> Self:
        """Read a checkpoint to resume from.

        Raises:
            DamagedFile: One of its files is missing, cut or changed.
        """
        check_checkpoint(checkpoint)
        path = checkpoint / HISTORY
        try:
            record = read_record(checkpoint)
            epoch = int(record["progress"]["epoch"])
            history = [EpochMetrics.from_record(line) for line in read_history(path)]
            # A wrong number of lines means a damaged file: the best epoch would not match the progress.
            if len(history) != epoch or not history:
                raise DamagedFile(f"{path}: must have {counted(epoch, 'epoch')}, got {len(history)}")
            # A finished run has no optimiser file, see `Run`.
            is_done = history[-1].diverged or epoch >= record["experiment"]["optim"]["epochs"]
            moments = {} if is_done else read_tensors(checkpoint / OPTIMIZER)
            tensors, answers = read_tensors(checkpoint / ADAPTER), EpochAnswers.read(checkpoint)
        except DamagedFile:
            raise
        # Files of earlier versions have no checksums: text that is JSON may still hold something else.
        except (ArtifactError, KeyError, TypeError, AttributeError) as error:
            raise DamagedFile(f"{checkpoint}: cannot be read ({error})") from None
        return cls(checkpoint, record, history, answers, tensors, moments)


def newest_state(
    folder: Path, *, has_best: bool = True, until: int | None = None
) -> tuple[SavedState | None, list[str]]:
    """Return the newest whole state of a run, and the damage of those that are newer.

    Args:
        folder: Folder of the run.
        has_best: Whether the run keeps its best checkpoint.
        until: Latest epoch of the state; None for any.
    """
    problems: list[str] = []
    checkpoints = kept_checkpoints(folder / "last")
    if not checkpoints and (folder / HISTORY).is_file():
        problems.append(f"{folder / 'last'}: is missing")
    for checkpoint in checkpoints:
        try:
            state = SavedState.read(checkpoint)
            # The best epoch so far is not trained again, so its checkpoint must be whole too.
            if has_best and state.record["progress"]["best_epoch"]:
                check_checkpoint(latest_checkpoint(folder / "best") or folder / "best")
        except DamagedFile as problem:
            problems.append(str(problem))
            continue
        if until is None or state.history[-1].epoch <= until:
            return state, problems
    return None, problems


def set_aside(folder: Path, usable: Path | None) -> None:
    """Move the damaged checkpoints of a run to its folder `damaged`, and its usable one to `last`.

    Args:
        folder: Folder of the run.
        usable: Checkpoint to go on from; None if the run starts again.
    """
    damaged, last = folder / DAMAGED, folder / "last"
    # Only the newest damage is kept.
    shutil.rmtree(damaged, ignore_errors=True)
    damaged.mkdir(parents=True)
    names = ["last"] if usable is not None else ["last", ".last.old", "best", ".best.old", HISTORY]
    for name in names:
        if (folder / name).exists():
            (folder / name).rename(damaged / name.lstrip("."))
    if usable is not None:
        usable.rename(last)
