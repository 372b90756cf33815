"""Comparison of an exported model with the recognizer that it was exported from."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evclip_ray.data.video.decode import VideoError
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.exported_model import ExportedModel
from evclip_ray.deploy.predictions import FailedVideo
from evclip_ray.deploy.recognizer import Recognizer

TOLERANCE = 1e-3
"""Largest difference of a logit that a float32 export may have. Logits of CLIP are cosines times 100."""

_RANDOM_VIEWS = 8
_AT_ONCE = 4

Named = tuple[str, NDArray[np.uint8]]
"""Name and view (T, H, W, 3) of a video."""


@dataclasses.dataclass(frozen=True)
class ComparedVideo:
    """Best class of one video in PyTorch and in the export, and the largest difference of its logits."""

    video: str
    pytorch: str
    exported: str
    max_difference: float
    mean_difference: float

    @property
    def agrees(self) -> bool:
        """Whether both have the same best class."""
        return self.pytorch == self.exported


@dataclasses.dataclass(frozen=True)
class Parity:
    """Differences between an export and PyTorch in float32 on the same frames.

    Attributes:
        videos: The compared videos.
        failed: Videos that could not be decoded.
        is_random: Whether the frames are noise, because no videos were given.
        tolerance: Largest allowed difference of a logit; None for reduced precision, where it is reported
            only.
    """

    videos: tuple[ComparedVideo, ...]
    failed: tuple[FailedVideo, ...]
    is_random: bool
    tolerance: float | None

    @property
    def top1_agreement(self) -> float:
        """Share of the videos with the same best class."""
        return sum(video.agrees for video in self.videos) / len(self.videos)

    @property
    def max_difference(self) -> float:
        """Largest difference of a logit."""
        return max(video.max_difference for video in self.videos)

    @property
    def mean_difference(self) -> float:
        """Mean difference of the logits."""
        return sum(video.mean_difference for video in self.videos) / len(self.videos)

    @property
    def passed(self) -> bool:
        """Whether all logits are finite and within the tolerance."""
        limit = math.inf if self.tolerance is None else self.tolerance
        # False for NaN as well; a difference that is infinite is an infinite logit.
        return all(video.max_difference <= limit and video.max_difference < math.inf for video in self.videos)

    def summary(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return {
            "frames": "random" if self.is_random else "videos",
            "videos": len(self.videos),
            "failed_videos": len(self.failed),
            "top1_agreement": self.top1_agreement,
            # JSON has no NaN.
            "max_logit_difference": _finite(self.max_difference),
            "mean_logit_difference": _finite(self.mean_difference),
            "tolerance": self.tolerance,
            "passed": self.passed,
        }

    def record(self) -> dict[str, Any]:
        """Return the summary, and one row per video, as JSON values."""
        rows = [
            {
                "video": video.video,
                "pytorch": video.pytorch,
                "exported": video.exported,
                "agrees": video.agrees,
                "max_logit_difference": _finite(video.max_difference),
                "mean_logit_difference": _finite(video.mean_difference),
            }
            for video in self.videos
        ]
        return {**self.summary(), "rows": rows, "failed": [failed.record() for failed in self.failed]}


def compare(
    recognizer: Recognizer, exported: ExportedModel, videos: Sequence[str], *, tolerance: float | None
) -> Parity:
    """Compare the logits of an export with those of PyTorch.

    Args:
        recognizer: Recognizer in float32.
        exported: Export of the same checkpoint.
        videos: Paths or URIs; random frames are compared if there are none.
        tolerance: See `Parity`.

    Raises:
        VideoError: No video can be decoded.
    """
    failed: list[FailedVideo] = []
    views = _decoded(recognizer, videos, failed) if videos else _random_views(recognizer.view)
    compared = [video for batch in _batches(views) for video in _compare(recognizer, exported, batch)]
    if not compared:
        raise VideoError(failed[0].video, f"{failed[0].error}. No video is left to compare with")
    return Parity(tuple(compared), tuple(failed), not videos, tolerance)


def _compare(recognizer: Recognizer, exported: ExportedModel, batch: Sequence[Named]) -> list[ComparedVideo]:
    frames = [view for _, view in batch]
    expected, actual = recognizer.logits(frames), exported.logits(frames)
    differences = np.abs(expected - actual)
    return [
        ComparedVideo(
            name,
            recognizer.classes[expected[row].argmax()],
            recognizer.classes[actual[row].argmax()],
            float(differences[row].max()),
            float(differences[row].mean()),
        )
        for row, (name, _) in enumerate(batch)
    ]


def _decoded(recognizer: Recognizer, videos: Sequence[str], failed: list[FailedVideo]) -> Iterator[Named]:
    for video in videos:
        try:
            yield video, recognizer.decode(video)
        except VideoError as error:
            failed.append(FailedVideo(video, error.reason))


def _random_views(view: ViewConfig) -> Iterator[Named]:
    generator = np.random.default_rng(0)
    height, width = view.size_of(view.shortest, view.shortest)
    for number in range(_RANDOM_VIEWS):
        frames = generator.integers(0, 256, (view.num_frames, height, width, 3), dtype=np.uint8)
        yield f"random {number}", frames


def _batches(views: Iterable[Named]) -> Iterator[list[Named]]:
    batch: list[Named] = []
    # The last batch is smaller, so that several batch sizes are compared.
    for view in views:
        batch.append(view)
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
