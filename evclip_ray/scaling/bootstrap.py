"""Bootstrap of validation top-1 over videos.

Trials that were scored on the same V videos are resampled together: each draw takes V videos with
replacement and scores every trial on them. Their scores are then correlated as on new videos, so that
intervals of differences are narrower (paired bootstrap). Trials without per-video results are resampled
independently, with binomial hits; for a single trial this is the same distribution.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evclip_ray.training.per_video_scores import VideoScores

Floats = NDArray[np.float64]
RESAMPLES = 1000
_CHUNK = 100
"""Draws of one matrix product: bounds the memory to _CHUNK x V counts."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Validation top-1 over a number of videos. `each`: per-video results, None if they were not saved."""

    top1: float
    videos: int
    each: VideoScores | None = None


def resampled_top1(scores: Sequence[Score], *, resamples: int = RESAMPLES) -> Floats:
    """Return resampled top-1 of M scores, (resamples, M)."""
    rng = np.random.default_rng(0)
    draws = np.empty((resamples, len(scores)))
    for indices in _together(scores).values():
        each = [scores[index].each for index in indices]
        # (V, M): one column per trial. The same row indices are drawn for all columns, which is what pairs
        # the trials.
        right = np.stack([known.right for known in each if known is not None], axis=1)
        draws[:, indices] = _drawn_together(right, resamples, rng)
    for index, score in enumerate(scores):
        if score.each is None:
            # V independent draws of hits at the measured rate: the bootstrap distribution of a single
            # accuracy.
            draws[:, index] = rng.binomial(score.videos, score.top1, resamples) / score.videos
    return draws


def how_drawn(scores: Sequence[Score]) -> str:
    """Describe how the scores were resampled, for readers of an interval."""
    apart, sets = sum(score.each is None for score in scores), len(_together(scores))
    if apart == len(scores):
        return "each trial by itself: which videos it has right was not kept"
    text = "paired over the same videos" if sets == 1 else f"paired within {sets} different sets of videos"
    return text if not apart else f"{text}; {apart} of {len(scores)} trials by themselves"


def _together(scores: Sequence[Score]) -> dict[str, list[int]]:
    """Return the indices of the scores by the set of videos that they were measured on."""
    indices: dict[str, list[int]] = {}
    for index, score in enumerate(scores):
        if score.each is not None:
            indices.setdefault(score.each.videos, []).append(index)
    return indices


def _drawn_together(right: NDArray[np.bool_], resamples: int, rng: np.random.Generator) -> Floats:
    """Return means over V rows drawn with replacement, (V, M) -> (resamples, M)."""
    count = len(right)

    def times(draws: int) -> NDArray[np.float32]:
        """Return how often each row is drawn, (draws, V). float32 sums these integers exactly."""
        drawn = [np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(draws)]
        return np.stack(drawn).astype(np.float32)

    chunks = [min(_CHUNK, resamples - start) for start in range(0, resamples, _CHUNK)]
    # (draws, V) counts times (V, M) results. Indexing would create a (draws, V, M) array instead.
    hits = [times(draws) @ right.astype(np.float32) for draws in chunks]
    return np.concatenate(hits).astype(np.float64) / count


def middle(draws: Floats) -> tuple[float, float]:
    """Return the 95 % percentile interval of draws."""
    # The percentile interval needs no assumption of a symmetric distribution.
    tail = (1 - 0.95) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def is_number(value: object) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float | np.number) and math.isfinite(float(value))
