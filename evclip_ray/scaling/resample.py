"""Resampling videos: how a validation top-1 might have come out on other videos of the same kind.

A video is right or wrong, so that drawing the videos of a set anew is drawing its hits from a
binomial distribution. Which videos each trial got right is not kept, so that trials are drawn apart
from each other; on the same videos they would vary together, and differences between them less.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 1000


def resampled_top1(
    top1: Floats, videos: NDArray[Any], *, resamples: int = RESAMPLES, seed: int = 0
) -> Floats:
    """(M,) top-1 of M trials on so many videos each -> (resamples, M) that might have been."""
    counts = np.asarray(videos, np.int64)
    draws = np.random.default_rng(seed).binomial(counts, top1, (resamples, len(counts)))
    return draws / counts


def middle(draws: Floats, *, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile interval of draws."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float | np.number) and math.isfinite(float(value))
