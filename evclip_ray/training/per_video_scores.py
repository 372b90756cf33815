"""Scores of a checkpoint on each validation video, stored in the checkpoint's folder.

    validation.npz    `right` (V,) bool; `log_loss` (V,) float32, -log p(true class) in nats;
                      `videos`, a digest of the V paths and labels in their order;
                      `groups` (V,) int32, number of each video's group, absent if videos are independent

Runs that were scored on the same videos can be compared video by video. Two runs often fail on the same
videos, so that the interval of a paired difference is narrower than that of either accuracy.

The checkpoint to resume from has the answers of all epochs instead. They allow to repeat the choice of the
best trial and epoch on samples of the videos (`metrics.choice`).

    validation_epochs.npz    `right` (E, ceil(V / 8)) uint8, one bit per epoch and video;
                             `epochs` (E,) their numbers from 1; `count` V; `videos`, `groups` as above;
                             `classes` (V,) int32, absent in older versions
"""

import contextlib
import dataclasses
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from evclip_ray.artifacts import ArtifactError

FILE = "validation.npz"
EPOCHS_FILE = "validation_epochs.npz"


@dataclasses.dataclass(frozen=True)
class VideoScores:
    """Digest of V videos, and `right`, `log_loss` and `groups` (V,) of each in order.

    `groups` is None if every video is a group of its own, and for checkpoints of versions without groups.
    """

    videos: str
    right: NDArray[np.bool_]
    log_loss: NDArray[np.float32]
    groups: NDArray[np.int64] | None = None

    @classmethod
    def read(cls, checkpoint: Path) -> Self | None:
        """Read the scores of a checkpoint. Returns None for a checkpoint without scores.

        Raises:
            ArtifactError: The file is damaged.
        """
        path = checkpoint / FILE
        if not path.is_file():
            return None
        with _reading(path) as saved:
            return cls(str(saved["videos"]), saved["right"], saved["log_loss"], _numbers(saved, "groups"))

    def write(self, checkpoint: Path) -> None:
        """Write the scores into a checkpoint's folder."""
        np.savez_compressed(
            checkpoint / FILE,
            videos=self.videos,
            right=self.right,
            log_loss=self.log_loss,
            **_saved_numbers(groups=self.groups),
        )


# Compared by identity, so that results can be cached by their answers.
@dataclasses.dataclass(frozen=True, eq=False)
class EpochAnswers:
    """Whether a run had each validation video right, in each epoch, as bits.

    Attributes:
        videos: Digest of the V videos.
        count: V.
        epochs: (E,) numbers of the epochs, from 1. Epochs that diverged, and those that an older version ran,
            are missing.
        packed: (E, ceil(V / 8)) uint8.
        groups: (V,) number of each video's group; None if every video is a group of its own.
        classes: (V,) class of each video; None for runs of older versions.
    """

    videos: str
    count: int
    epochs: NDArray[np.int64]
    packed: NDArray[np.uint8]
    groups: NDArray[np.int64] | None = None
    classes: NDArray[np.int64] | None = None

    @classmethod
    def empty(
        cls,
        videos: str,
        count: int,
        groups: NDArray[np.int64] | None,
        classes: NDArray[np.int64] | None = None,
    ) -> Self:
        """Return the answers of a run before its first epoch."""
        packed = np.empty((0, len(np.packbits(np.empty(count, bool)))), np.uint8)
        return cls(videos, count, np.empty(0, np.int64), packed, groups, classes)

    def with_epoch(self, epoch: int, right: NDArray[np.bool_]) -> Self:
        """Return the answers with those of one more epoch, (V,)."""
        epochs, packed = np.append(self.epochs, epoch), np.vstack([self.packed, np.packbits(right)])
        return dataclasses.replace(self, epochs=epochs, packed=packed)

    def until(self, epoch: int) -> Self:
        """Return the answers up to an epoch; the same object if there are no later ones."""
        kept = self.epochs <= epoch
        if kept.all():
            return self
        return dataclasses.replace(self, epochs=self.epochs[kept], packed=self.packed[kept])

    @property
    def right(self) -> NDArray[np.bool_]:
        """The answers, (E, V)."""
        return np.unpackbits(self.packed, axis=1, count=self.count).astype(bool)

    @classmethod
    def read(cls, checkpoint: Path) -> Self | None:
        """Read the answers of a checkpoint. Returns None for a checkpoint without them.

        Raises:
            ArtifactError: The file is damaged.
        """
        path = checkpoint / EPOCHS_FILE
        if not path.is_file():
            return None
        with _reading(path) as saved:
            videos, count = str(saved["videos"]), int(saved["count"])
            groups, classes = (_numbers(saved, name) for name in ("groups", "classes"))
            return cls(videos, count, saved["epochs"], saved["right"], groups, classes)

    def write(self, checkpoint: Path) -> None:
        """Write the answers into a checkpoint's folder."""
        # Not compressed: the file is written after every epoch, and the bits of 10,000 videos are 1.25 KB.
        np.savez(
            checkpoint / EPOCHS_FILE,
            videos=self.videos,
            count=self.count,
            epochs=self.epochs,
            right=self.packed,
            **_saved_numbers(groups=self.groups, classes=self.classes),
        )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Mapping[str, NDArray[Any]]]:
    try:
        with np.load(path) as saved:
            yield saved
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}). The file is damaged; remove it.") from None


def _numbers(saved: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.int64] | None:
    return saved[name].astype(np.int64) if name in saved else None


def _saved_numbers(**numbers: NDArray[np.int64] | None) -> dict[str, Any]:
    return {name: values.astype(np.int32) for name, values in numbers.items() if values is not None}
