"""Confidence intervals: of a proportion over videos, and of a mean over seeds.

scipy is imported inside the functions, because its import takes 0.1 to 0.5 s and `evclip-ray --help` needs
none.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Interval = tuple[float, float]
IntervalKind = Literal["t", "bootstrap"]


@dataclasses.dataclass(frozen=True)
class SeedMean:
    """Mean of a metric over seeds, with its interval; `interval` is None for a single seed."""

    mean: float
    interval: Interval | None
    num_seeds: int

    def record(self) -> dict[str, Any]:
        """Return the fields of a result row."""
        return {"mean": self.mean, "interval": self.interval and list(self.interval), "seeds": self.num_seeds}


def mean_over_seeds(values: Sequence[float], *, interval: IntervalKind = "t") -> SeedMean:
    """Return the mean over seeds with its 95 % interval.

    Args:
        values: One value per seed.
        interval: Method of the interval: `t_interval` or `bootstrap_interval`.

    Raises:
        ValueError: There are no values, or one is NaN or infinite.
    """
    if not values:
        raise ValueError("a mean over seeds needs at least one value, got none")
    if not np.isfinite(values).all():
        raise ValueError(
            f"a mean over seeds needs finite values, got {list(values)}; leave the failed seed out"
        )
    method = {"t": t_interval, "bootstrap": bootstrap_interval}[interval]
    return SeedMean(float(np.mean(values)), method(values) if len(values) > 1 else None, len(values))


def t_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Return Student's interval of the mean.

        mean +- t s / sqrt(n)

    where n is the number of values,
    s is their standard deviation with n - 1 in the denominator,
    t is the quantile (1 + confidence) / 2 of Student's distribution with n - 1 degrees of freedom.

    It assumes roughly normal values and suits a handful of seeds.

    Raises:
        ValueError: There are fewer than two values.
    """
    # The quantile of scipy.stats.t is this function, and the import of scipy.special takes a third of the
    # time.
    from scipy.special import stdtrit

    _require_two(values)
    sample = np.asarray(values, np.float64)
    mean, deviation = float(sample.mean()), float(sample.std(ddof=1))
    half = float(stdtrit(len(sample) - 1, (1 + confidence) / 2)) * deviation / math.sqrt(len(sample))
    return mean - half, mean + half


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Return the percentile bootstrap interval of the mean.

    It assumes no distribution. It is too narrow for few values: with n of them by about sqrt((n - 1) / n).

    Args:
        values: One value per seed.
        confidence: Probability that the interval covers the mean.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: There are fewer than two values.
    """
    from scipy.stats import bootstrap

    _require_two(values)
    result = bootstrap(
        (values,), np.mean, n_resamples=resamples, confidence_level=confidence, method="percentile", rng=seed
    )
    low, high = result.confidence_interval
    return float(low), float(high)


def wilson_interval(hits: int, total: int, *, z: float = 1.959964) -> Interval:
    """Return Wilson's score interval of a proportion; (0, 1) without videos.

        (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    where p = hits / total and n = total. Source: Wilson (1927).

    >>> [round(x, 3) for x in wilson_interval(8, 10)]
    [0.49, 0.943]

    Args:
        hits: Number of correct videos.
        total: Number of videos.
        z: Quantile of the normal distribution; the default is that of a 95 % interval.
    """
    # Leaderboards call this for every row after every trial. scipy's binomtest takes 3,000 times as long, and
    # its interval differs by 2e-9 (the rounding of z).
    if total == 0:
        return (0.0, 1.0)
    p, zz = hits / total, z * z
    centre = (p + zz / (2 * total)) / (1 + zz / total)
    half = z * math.sqrt(p * (1 - p) / total + zz / (4 * total * total)) / (1 + zz / total)
    # The exact bounds are in [0, 1], and rounding errors can leave it.
    return (max(0.0, centre - half), min(1.0, centre + half))


def _require_two(values: Sequence[float]) -> None:
    if len(values) < 2:
        raise ValueError(
            f"an interval over seeds needs at least 2 of them, got {len(values)}; run more seeds"
        )
