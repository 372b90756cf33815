"""What a checkpoint says of each validation video, kept beside it: which it has right, and how sure it is.

    validation.npz    `right` (V,) bool; `log_loss` (V,) float32, -log p(true class) in nats;
                      `videos`, a digest of the V paths and labels in their order

Runs that were scored on the same videos can so be compared video by video: what one finds hard the
other often does too, and their difference is known better than either number.
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
    """`videos`: which they are, as a digest; `right` and `log_loss` (V,): of each, in order."""

    videos: str
    right: NDArray[np.bool_]
    log_loss: NDArray[np.float32]

    @classmethod
    def read(cls, checkpoint: Path) -> Self | None:
        """Those of a checkpoint; None where it was written without.

        Raises:
            ArtifactError: damaged.
        """
        path = checkpoint / FILE
        if not path.is_file():
            return None
        try:
            with np.load(path) as saved:
                return cls(str(saved["videos"]), saved["right"], saved["log_loss"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{path}: cannot be read ({error}); it was damaged, remove it") from None

    def write(self, checkpoint: Path) -> None:
        """Into a checkpoint's folder."""
        np.savez_compressed(checkpoint / FILE, videos=self.videos, right=self.right, log_loss=self.log_loss)
