"""Effect sizes of two groups of numbers, with intervals from a bootstrap over units.

    delta = P(b > a) - P(b < a)

where a is a random value of the first group and b of the second. Source: Cliff (1993). It is -1 if every b is
below every a, 0 if neither tends to be larger, and 1 if every b is above. The area under the ROC curve is
(delta + 1) / 2.

A unit is a source of videos: the group in the manifest, else the video itself. Videos of one unit are alike,
so the bootstrap draws units and not videos. Units are drawn by name, so the order of the videos has no
effect.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evclip_ray.metrics.intervals import wilson_interval

Array = NDArray[np.float64]

# 25 of them lie beyond each end of a 95 % interval, enough for a stable percentile.
_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with its 95 % percentile bootstrap interval; all NaN if a group is empty.

    If all resamples give the same value, as for two groups that do not overlap, the percentiles coincide. The
    interval is then value +- 2 u within -1 to 1, where u is the upper bound of Wilson's interval of 0 out of
    n and n is the number of units in the smaller group.
    """

    value: float
    low: float
    high: float


def cliffs_delta(
    a: Array, b: Array, *, units_a: Sequence[str], units_b: Sequence[str], seed: int
) -> Estimate:
    """Return Cliff's delta of b against a. The two groups are resampled independently.

    Args:
        a: (M,) values of the first group.
        b: (K,) values of the second group.
        units_a: (M,) unit of each value of `a`.
        units_b: (K,) unit of each value of `b`.
        seed: Seed of the bootstrap.
    """
    delta, random = _WeightedDelta(a, b), np.random.default_rng(seed)
    draw_a, draw_b = _unit_resampler(units_a, random), _unit_resampler(units_b, random)
    return _estimate(delta, lambda: (draw_a(), draw_b()), units=min(len(set(units_a)), len(set(units_b))))


def area_under_curve(
    values: Array, positive: NDArray[np.bool_], *, units: Sequence[str], seed: int
) -> Estimate:
    """Return P(value of a positive > value of a negative), where ties count one half.

    All values are one sample, which is resampled as a whole.

    Args:
        values: (M,) values.
        positive: (M,) flags of the positives. If all or none are set, the result is NaN.
        units: (M,) unit of each value.
        seed: Seed of the bootstrap.
    """
    weighted_delta = _WeightedDelta(values[~positive], values[positive])
    draw = _unit_resampler(units, np.random.default_rng(seed))

    def draw_both() -> tuple[Array, Array]:
        weights = draw()
        return weights[~positive], weights[positive]

    of_units = np.asarray(units, dtype=str)
    smaller = min(len(np.unique(of_units[positive])), len(np.unique(of_units[~positive])))
    delta = _estimate(weighted_delta, draw_both, units=smaller)
    return Estimate(*((bound + 1) / 2 for bound in (delta.value, delta.low, delta.high)))


class _WeightedDelta:
    """Cliff's delta as a function of the weights of the values.

    The values are sorted once. A resample then costs M + K operations instead of M K comparisons.
    """

    def __init__(self, a: Array, b: Array) -> None:
        self._order = np.argsort(a, kind="stable")
        self._sizes = len(a), len(b)
        # For each b: the number of values of a below it, and the number up to it.
        self._below = np.searchsorted(a[self._order], b, side="left")
        self._up_to = np.searchsorted(a[self._order], b, side="right")

    def unweighted(self) -> float:
        """Return delta where every value counts once."""
        return self(*(np.ones(size) for size in self._sizes))

    def __call__(self, weights_a: Array, weights_b: Array) -> float:
        # sums[i] is the weight of the i smallest values of a, so each b needs two lookups: the weight below
        # it, and the weight above it as the total less the weight up to it.
        sums = np.concatenate([[0.0], np.cumsum(weights_a[self._order])])
        total = sums[-1] * weights_b.sum()
        if total == 0:
            return float("nan")
        # Ties are in neither count, so they contribute 0.
        return float(weights_b @ (sums[self._below] - (sums[-1] - sums[self._up_to])) / total)


def _unit_resampler(units: Sequence[str], random: np.random.Generator) -> Callable[[], Array]:
    """Return a function that draws a bootstrap sample of the units, as one weight for each of M values.

    It draws as many units as there are, with replacement. `scipy.stats.bootstrap` draws single values or
    pairs of them. It has no resampling of units and takes no weights, so the bootstrap is our own.
    """
    # `np.unique` sorts the names, so the draws do not depend on the order of the values.
    names, unit_of_value = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    probabilities = np.full(len(names), 1 / max(len(names), 1))
    # The counts of n draws with replacement from n units have this multinomial distribution.
    return lambda: random.multinomial(len(names), probabilities)[unit_of_value].astype(np.float64)


def _estimate(delta: _WeightedDelta, draw: Callable[[], tuple[Array, Array]], *, units: int) -> Estimate:
    value = delta.unweighted()
    if np.isnan(value):
        return Estimate(value, value, value)
    deltas = np.array([delta(*draw()) for _ in range(_RESAMPLES)])
    # A resample can leave one group without values, and its delta is then NaN.
    deltas = deltas[~np.isnan(deltas)]
    low, high = np.percentile(deltas, [2.5, 97.5])
    if np.ptp(deltas) < 1e-12:
        half = 2 * wilson_interval(0, units)[1]
        low, high = max(-1.0, value - half), min(1.0, value + half)
    return Estimate(value, float(low), float(high))
