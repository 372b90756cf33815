"""How much two groups of numbers differ, with an interval that respects what belongs together.

Cliff's delta = P(b > a) - P(b < a), a from one group and b from the other: -1 when every b is below
every a, 0 when neither tends to be larger, 1 when every b is above (Cliff, 1993). The area under the ROC
curve is (delta + 1) / 2. Videos of one source (a *unit*: the manifest's group, else the video itself) are
alike, so the bootstrap draws units, not videos. Units are drawn by name: the order of the videos
changes nothing.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with its 95 % percentile bootstrap interval; nan where it cannot be told."""

    value: float
    low: float
    high: float


def shift(a: Array, b: Array, *, units_a: Sequence[str], units_b: Sequence[str], seed: int) -> Estimate:
    """Cliff's delta of b against a, two samples drawn independently."""
    pairs, random = _Pairs(a, b), np.random.default_rng(seed)
    draw_a, draw_b = _drawer(units_a, random), _drawer(units_b, random)
    return _estimate(pairs, lambda: (draw_a(), draw_b()))


def area_under_curve(
    values: Array, positive: NDArray[np.bool_], *, units: Sequence[str], seed: int
) -> Estimate:
    """P(a positive's value is larger than a negative's), ties half; one sample, (M,) of each.

    nan when all are positive, or none.
    """
    pairs = _Pairs(values[~positive], values[positive])
    draw = _drawer(units, np.random.default_rng(seed))

    def both() -> tuple[Array, Array]:
        weights = draw()
        return weights[~positive], weights[positive]

    delta = _estimate(pairs, both)
    return Estimate(*((bound + 1) / 2 for bound in (delta.value, delta.low, delta.high)))


class _Pairs:
    """Cliff's delta as a function of the weights: the order of the values is worked out once."""

    def __init__(self, a: Array, b: Array) -> None:
        self._order = np.argsort(a, kind="stable")
        self._sizes = len(a), len(b)
        self._below = np.searchsorted(a[self._order], b, side="left")
        self._up_to = np.searchsorted(a[self._order], b, side="right")

    def unweighted(self) -> float:
        return self(*(np.ones(size) for size in self._sizes))

    def __call__(self, weights_a: Array, weights_b: Array) -> float:
        sums = np.concatenate([[0.0], np.cumsum(weights_a[self._order])])
        total = sums[-1] * weights_b.sum()
        if total == 0:
            return float("nan")
        return float(weights_b @ (sums[self._below] - (sums[-1] - sums[self._up_to])) / total)


def _drawer(units: Sequence[str], random: np.random.Generator) -> Callable[[], Array]:
    """Draws how often each of the (M,) units' videos counts: as many units as there are, with replacement."""
    names, member = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    chances = np.full(len(names), 1 / max(len(names), 1))
    return lambda: random.multinomial(len(names), chances)[member].astype(np.float64)


def _estimate(pairs: _Pairs, draw: Callable[[], tuple[Array, Array]]) -> Estimate:
    value = pairs.unweighted()
    if np.isnan(value):
        return Estimate(value, value, value)
    draws = np.array([pairs(*draw()) for _ in range(_DRAWS)])
    low, high = np.percentile(draws[~np.isnan(draws)], [2.5, 97.5])
    return Estimate(value, float(low), float(high))
