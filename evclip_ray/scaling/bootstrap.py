"""Resampling videos: how validation top-1 might have come out on other videos of the same kind.

Trials that were scored on the same videos are resampled together: each draw takes V videos with
replacement, and every trial is scored on these. They vary together then, as they would on new videos, and
differences between them vary less. A trial of which it was not kept which videos it has right is drawn
by itself: its hits are binomial, which is the same for one trial alone.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evclip_ray.training.per_video_scores import VideoScores

Floats = NDArray[np.float64]
RESAMPLES = 1000
_AT_ONCE = 100


@dataclasses.dataclass(frozen=True)
class Score:
    """A validation top-1 over a number of videos; `each`: what each of them was, where that was kept."""

    top1: float
    videos: int
    each: VideoScores | None = None


def resampled_top1(scores: Sequence[Score], *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """M scores -> (resamples, M) top-1 that might have been."""
    rng = np.random.default_rng(seed)
    draws = np.empty((resamples, len(scores)))
    for places in _together(scores).values():
        each = [scores[place].each for place in places]
        right = np.stack([known.right for known in each if known is not None], axis=1)
        draws[:, places] = _drawn_together(right, resamples, rng)
    for place, score in enumerate(scores):
        if score.each is None:
            draws[:, place] = rng.binomial(score.videos, score.top1, resamples) / score.videos
    return draws


def how_drawn(scores: Sequence[Score]) -> str:
    """What a reader of an interval has to know of its draws."""
    apart, sets = sum(score.each is None for score in scores), len(_together(scores))
    if apart == len(scores):
        return "each trial by itself: which videos it has right was not kept"
    said = "paired over the same videos" if sets == 1 else f"paired within {sets} different sets of videos"
    return said if not apart else f"{said}; {apart} of {len(scores)} trials by themselves"


def _together(scores: Sequence[Score]) -> dict[str, list[int]]:
    """Videos -> the places of those that were scored on them."""
    found: dict[str, list[int]] = {}
    for place, score in enumerate(scores):
        if score.each is not None:
            found.setdefault(score.each.videos, []).append(place)
    return found


def _drawn_together(right: NDArray[np.bool_], resamples: int, rng: np.random.Generator) -> Floats:
    """(V, M) -> (resamples, M): means over V rows that are drawn with replacement."""
    count = len(right)

    def times(draws: int) -> NDArray[np.float32]:
        """(draws, V): how often each row is drawn; whole numbers, whose sums float32 holds exactly."""
        drawn = [np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(draws)]
        return np.stack(drawn).astype(np.float32)

    chunks = [min(_AT_ONCE, resamples - start) for start in range(0, resamples, _AT_ONCE)]
    hits = [times(draws) @ right.astype(np.float32) for draws in chunks]
    return np.concatenate(hits).astype(np.float64) / count


def middle(draws: Floats, *, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile interval of draws."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float | np.number) and math.isfinite(float(value))
