"""Scores of a checkpoint on each validation video, stored in the checkpoint's folder.

    validation.npz    `right` (V,) bool; `log_loss` (V,) float32, -log p(true class) in nats;
                      `videos`, a digest of the V paths and labels in their order;
                      `groups` (V,) int32, number of each video's group, absent if videos are independent

Runs that were scored on the same videos can be compared video by video. Two runs often fail on the same
videos, so that the interval of a paired difference is narrower than that of either accuracy.
"""

import dataclasses
import zipfile
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from evclip_ray.artifacts import ArtifactError

FILE = "validation.npz"


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
        try:
            with np.load(path) as saved:
                groups = saved["groups"].astype(np.int64) if "groups" in saved else None
                return cls(str(saved["videos"]), saved["right"], saved["log_loss"], groups)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ArtifactError(
                f"{path}: cannot be read ({error}). The file is damaged; remove it."
            ) from None

    def write(self, checkpoint: Path) -> None:
        """Write the scores into a checkpoint's folder."""
        arrays = {"right": self.right, "log_loss": self.log_loss}
        if self.groups is not None:
            arrays["groups"] = self.groups.astype(np.int32)
        np.savez_compressed(checkpoint / FILE, videos=self.videos, **arrays)
