"""Scores of a checkpoint on each validation video, stored in the checkpoint's folder.

    validation.npz    `right` (V,) bool; `log_loss` (V,) float32, -log p(true class) in nats;
                      `videos`, a digest of the V paths and labels in their order

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
    """Digest of V videos, and `right` and `log_loss` (V,) of each in order."""

    videos: str
    right: NDArray[np.bool_]
    log_loss: NDArray[np.float32]

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
                return cls(str(saved["videos"]), saved["right"], saved["log_loss"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ArtifactError(
                f"{path}: cannot be read ({error}). The file is damaged; remove it."
            ) from None

    def write(self, checkpoint: Path) -> None:
        """Write the scores into a checkpoint's folder."""
        np.savez_compressed(checkpoint / FILE, videos=self.videos, right=self.right, log_loss=self.log_loss)
