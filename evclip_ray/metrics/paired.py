"""Gain of one model over another on the same videos, with its interval.

Two models often fail on the same videos, so the interval of their difference is narrower than the intervals
of their accuracies suggest.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from evclip_ray.metrics.intervals import effective_number

GROUP = "group"
"""Column of an evaluation's `predictions.csv`: number of each video's group, if videos come in groups."""

_Z = 1.959964


@dataclasses.dataclass(frozen=True)
class Gain:
    """Difference of two accuracies on the same videos, with its 95 % interval.

    Attributes:
        value: Accuracy after minus accuracy before.
        low: Lower bound.
        high: Upper bound.
        videos: Number of videos.
        groups: Number of their groups; None if every video is a group of its own.
    """

    value: float
    low: float
    high: float
    videos: int
    groups: int | None = None

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the interval excludes a difference of zero."""
        return self.low > 0 or self.high < 0

    def moved(self, shift: float) -> "Gain":
        """Return the gain and its interval after a shift, within -1 to 1."""
        value, low, high = (min(1.0, max(-1.0, x + shift)) for x in (self.value, self.low, self.high))
        return dataclasses.replace(self, value=value, low=low, high=high)


def paired_gain(
    before: NDArray[np.bool_], after: NDArray[np.bool_], groups: NDArray[np.int64] | None = None
) -> Gain:
    """Return the gain of `after` over `before` with the adjusted Wald interval of Bonett and Price (2012).

        (b - c) / (n + 2) +- z sqrt((s - d^2) / (n + 2))

    where n is the number of videos, b and c are the numbers of videos that only `after` and only `before`
    have right, s = (b + c + 2) / (n + 2) and d = (b - c) / (n + 2).

    Where videos come in groups, n, b and c are scaled to the effective number of videos of the difference,
    see `accuracy_interval`. Unlike percentiles of a bootstrap, the interval does not shrink to a point if
    few videos differ: 4 gains and no loss on 25 videos are not beyond chance, 5 are.

    >>> before, after = np.zeros(25, bool), np.arange(25) < 5
    >>> gain = paired_gain(before, after)
    >>> round(gain.value, 2), round(gain.low, 3), round(gain.high, 2)
    (0.2, 0.006, 0.36)

    Args:
        before: (V,) whether the first model has each video right.
        after: (V,) whether the second model has.
        groups: (V,) number of each video's group; None if the videos are independent.

    Raises:
        ValueError: There are no videos.
    """
    if not len(after):
        raise ValueError("a gain needs at least one video, got none")
    change = after.astype(np.float64) - before
    spread = float((change**2).mean() - change.mean() ** 2)
    n = min(float(len(change)), effective_number(change, groups, spread=spread))
    gained, lost = float((change > 0).mean()) * n, float((change < 0).mean()) * n
    centre, changed = (gained - lost) / (n + 2), (gained + lost + 2) / (n + 2)
    half = _Z * math.sqrt((changed - centre**2) / (n + 2))
    return Gain(
        float(change.mean()),
        max(-1.0, centre - half),
        min(1.0, centre + half),
        len(change),
        None if groups is None else len(np.unique(groups)),
    )
