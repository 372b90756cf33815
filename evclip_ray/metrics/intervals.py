"""How far a number may be off: intervals of a proportion over videos, and of a mean over seeds."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Interval = tuple[float, float]
IntervalKind = Literal["t", "bootstrap"]


@dataclasses.dataclass(frozen=True)
class SeedMean:
    """The mean of a number over seeds, with its interval; `interval` is None for a single seed."""

    mean: float
    interval: Interval | None
    num_seeds: int

    def record(self) -> dict[str, Any]:
        """What a result row says of it."""
        return {"mean": self.mean, "interval": self.interval and list(self.interval), "seeds": self.num_seeds}


def over_seeds(values: Sequence[float], *, interval: IntervalKind = "t") -> SeedMean:
    """The mean of one number a seed, with its 95 % interval.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    if not values:
        raise ValueError("a mean over seeds needs at least one value, got none")
    if not np.isfinite(values).all():
        raise ValueError(
            f"a mean over seeds needs finite values, got {list(values)}; leave the failed seed out"
        )
    intervals = {"t": t_interval, "bootstrap": bootstrap_interval}
    found = intervals[interval](values) if len(values) > 1 else None
    return SeedMean(float(np.mean(values)), found, len(values))


def t_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Student's interval of the mean of n values: mean +- t s / sqrt(n), t of n - 1 degrees of freedom.

    It supposes values that are roughly normal, and is the one to use for a handful of seeds.

    Raises:
        ValueError: fewer than two values.
    """
    _require_two(values)
    sample = np.asarray(values, np.float64)
    spread = sample.std(ddof=1) / math.sqrt(len(sample))
    half = float(_t_quantile((1 + confidence) / 2, len(sample) - 1) * spread)
    return float(sample.mean()) - half, float(sample.mean()) + half


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The percentile interval of the mean of `resamples` samples drawn with replacement.

    It supposes no shape, and is too narrow for few values (with n of them by about sqrt((n - 1) / n)).

    Raises:
        ValueError: fewer than two values.
    """
    _require_two(values)
    sample = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(len(sample), size=(resamples, len(sample)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(sample[drawn].mean(1), [tail, 1 - tail])
    return float(low), float(high)


def wilson_interval(hits: int, total: int, *, z: float = 1.959964) -> Interval:
    """Wilson's score interval of a proportion; 95 % with the default z.

    >>> [round(x, 3) for x in wilson_interval(8, 10)]
    [0.49, 0.943]
    """
    if total == 0:
        return (0.0, 1.0)
    p, zz = hits / total, z * z
    centre = (p + zz / (2 * total)) / (1 + zz / total)
    half = z * math.sqrt(p * (1 - p) / total + zz / (4 * total * total)) / (1 + zz / total)
    return (max(0.0, centre - half), min(1.0, centre + half))


def _require_two(values: Sequence[float]) -> None:
    if len(values) < 2:
        raise ValueError(
            f"an interval over seeds needs at least 2 of them, got {len(values)}; run more seeds"
        )


def _t_quantile(probability: float, degrees: int) -> float:
    """The t that a share `probability` > 1/2 of Student's distribution lies below, by bisection."""
    low, high = 0.0, 1.0
    while _t_below(high, degrees) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, degrees) < probability else (low, middle)
    return high


def _t_below(t: float, degrees: int) -> float:
    """P(T < t) for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4).

    With theta = atan(t / sqrt(nu)), P(|T| < t) is, for even nu,
    sin(theta) (1 + 1/2 cos^2 + 1.3/2.4 cos^4 + ... up to cos^(nu - 2)), and for odd nu,
    2/pi (theta + sin(theta) (cos + 2/3 cos^3 + ... up to cos^(nu - 2))).
    """
    theta = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    term = math.cos(theta) if odd else 1.0
    total = 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * math.cos(theta) ** 2
    inside = math.sin(theta) * total
    inside = 2 / math.pi * (theta + inside) if odd else inside
    return (1 + inside) / 2
