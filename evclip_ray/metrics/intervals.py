"""Confidence intervals: of an accuracy or another mean over videos, and of a mean over seeds.

Videos of one group (person, place, recording) are alike, so an interval that takes them as independent is
too narrow. `accuracy_interval` takes the groups. `docs/benchmarks.md` has the simulated coverage of every
interval here.

scipy is imported inside the functions, because its import takes 0.1 to 0.5 s and `evclip-ray --help` needs
none.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

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


def mean_over_seeds(
    values: Sequence[float], *, interval: IntervalKind = "t", videos: int | None = None
) -> SeedMean:
    """Return the mean over seeds with its 95 % interval.

    Args:
        values: One value per seed.
        interval: Method of the interval: `t_interval` or `bootstrap_interval`.
        videos: Number of videos behind each value if the values are accuracies, see `t_interval`.

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
    over_seeds = method(values, videos=videos) if len(values) > 1 else None
    return SeedMean(float(np.mean(values)), over_seeds, len(values))


def t_interval(values: Sequence[float], *, confidence: float = 0.95, videos: int | None = None) -> Interval:
    """Return Student's interval of the mean.

        mean +- t s / sqrt(n)

    where n is the number of values,
    s is their standard deviation with n - 1 in the denominator,
    t is the quantile (1 + confidence) / 2 of Student's distribution with n - 1 degrees of freedom.

    It assumes roughly normal values and suits a handful of seeds.

    Accuracies over V videos are multiples of 1 / V, so equal values only show that the seeds differ by less
    than that. With `videos`, s is at least 1 / 2V, and the interval is cut to 0 to 1. Three seeds of 12/12
    then give 0.90 to 1 instead of an interval of zero width.

    Args:
        values: One value per seed.
        confidence: Probability that the interval covers the mean.
        videos: V if the values are accuracies over V videos.

    Raises:
        ValueError: There are fewer than two values.
    """
    _require_two(values)
    sample = np.asarray(values, np.float64)
    mean, deviation = float(sample.mean()), max(float(sample.std(ddof=1)), _rounding(videos))
    half = _student(len(sample) - 1, confidence) * deviation / math.sqrt(len(sample))
    return _cut((mean - half, mean + half), videos)


def bootstrap_interval(
    values: Sequence[float],
    *,
    confidence: float = 0.95,
    videos: int | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return the bootstrap interval of the mean, widened for small samples. It can be asymmetric.

        mean - f (mean - low), mean + f (high - mean)    with f = sqrt(n / (n - 1)) t / z

    where low and high are percentiles of the bootstrap means, n is the number of values,
    t and z are the quantiles (1 + confidence) / 2 of Student's distribution with n - 1 degrees of freedom
    and of the normal distribution.

    The percentile interval itself is too narrow for few seeds: of three, it covers 75 % instead of 95 %.
    Hesterberg (2015) corrects it by the same factor f, applied to the percentiles. Percentiles
    never leave the range of the values, which is too narrow for three seeds, so f is applied to the bounds.

    Args:
        values: One value per seed.
        confidence: Probability that the interval covers the mean.
        videos: V if the values are accuracies over V videos. Seeds that differ by less than one video get
            the t interval, which has a width then.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: There are fewer than two values.
    """
    from scipy.stats import bootstrap

    _require_two(values)
    sample = np.asarray(values, np.float64)
    if float(sample.std(ddof=1)) < _rounding(videos):
        return t_interval(values, confidence=confidence, videos=videos)
    result = bootstrap(
        (sample,), np.mean, n_resamples=resamples, confidence_level=confidence, method="percentile", rng=seed
    )
    mean, factor = float(sample.mean()), small_sample_factor(len(sample), confidence)
    low, high = (mean + factor * (float(bound) - mean) for bound in result.confidence_interval)
    return _cut((low, high), videos)


def accuracy_interval(
    right: NDArray[np.bool_ | np.float64], groups: NDArray[np.int64] | None = None
) -> Interval:
    """Return the 95 % interval of an accuracy over videos, which may come in groups.

    Without groups, or if every video is a group of its own, it is `wilson_interval`. Otherwise it is Wilson's
    interval with the effective number of videos n* in place of n:

        n* = p (1 - p) / var * (t_n / t_G)^2, at least n^2 / sum_g n_g^2 and at most n
        var = G / (G - 1) * sum_g (r_g - p n_g)^2 / n^2

    where n is the number of videos, n_g that of group g and r_g its correct ones, p = sum r_g / n,
    G is the number of groups, and t_n, t_G are 97.5 % quantiles of Student's distribution with n - 1 and
    G - 1 degrees of freedom. Source: Korn and Graubard (1998), with Wilson's interval instead of Clopper and
    Pearson's ("modified Wilson" in SAS SURVEYFREQ; compared by Franco et al. 2019).

    We add the lower bound: where all videos of a group are right or wrong together, n videos hold as much as
    n^2 / sum_g n_g^2 independent ones, and no groups are more alike. It matters for few groups, whose var is
    uncertain, and where all or no videos are right or all are of one group, so that var is 0 and shows
    nothing.

    >>> right = np.repeat([True, True, False, True], 6)
    >>> [round(bound, 2) for bound in accuracy_interval(right)]
    [0.55, 0.88]
    >>> [round(bound, 2) for bound in accuracy_interval(right, np.repeat(np.arange(4), 6))]
    [0.3, 0.95]

    Args:
        right: (V,) whether each video is correct, or the share of epochs in which it is.
        groups: (V,) number of each video's group; None if the videos are independent.
    """
    total = len(right)
    if total == 0:
        return (0.0, 1.0)
    hits = float(right.sum())
    if groups is None or len(np.unique(groups)) == total:
        return wilson_interval(hits, total)
    return effective_interval(hits / total, min(float(total), effective_videos(right, groups)))


def mean_interval(
    values: NDArray[np.float64], groups: NDArray[np.int64] | None = None, *, resamples: int = 2000
) -> Interval:
    """Return the 95 % bootstrap interval of a mean over videos of values from 0 to 1.

    Whole groups are drawn, with replacement. As in `bootstrap_interval`, both bounds are moved away from the
    mean by the factor f for the number of groups, because percentiles over few groups are too narrow. Values
    without any spread, and those of a single group, have the interval of an accuracy with that value.

    >>> [round(bound, 2) for bound in mean_interval(np.array([0.2, 0.4, 0.6, 0.8]))]
    [0.13, 0.87]

    Args:
        values: (V,) value of each video.
        groups: (V,) number of each video's group; None if the videos are independent.
        resamples: Number of bootstrap samples.
    """
    from scipy.stats import bootstrap

    _, group = np.unique(np.arange(len(values)) if groups is None else groups, return_inverse=True)
    sums, sizes = np.bincount(group, values), np.bincount(group)
    count = len(sizes)
    if count < 2 or float(np.ptp(sums / sizes)) < 1e-9:
        return accuracy_interval(values, groups)
    # Batches keep the memory at 100 samples: 50,000 groups would take 800 MB at once.
    result = bootstrap(
        (sums, sizes),
        lambda total, number, axis: total.sum(axis) / number.sum(axis),
        n_resamples=resamples,
        batch=100,
        paired=True,
        vectorized=True,
        method="percentile",
        rng=0,
    )
    mean = float(values.mean())
    factor = small_sample_factor(count)
    low, high = (mean + factor * (float(bound) - mean) for bound in result.confidence_interval)
    return max(0.0, low), min(1.0, high)


def small_sample_factor(number: int, confidence: float = 0.95) -> float:
    """Return the factor f of `bootstrap_interval`, which widens an interval over few values or groups.

    Args:
        number: Number of values or groups, at least 2.
        confidence: Probability that the interval covers the value.
    """
    from scipy.special import ndtri

    student, normal = _student(number - 1, confidence), float(ndtri((1 + confidence) / 2))
    return math.sqrt(number / (number - 1)) * student / normal


def effective_videos(right: NDArray[np.bool_ | np.float64], groups: NDArray[np.int64] | None) -> float:
    """Return n* of `accuracy_interval` without its upper bound n, which means over epochs can exceed.

    Args:
        right: (V,) whether each video is correct, or the share of epochs in which it is.
        groups: (V,) number of each video's group; None if the videos are independent.
    """
    p = float(right.mean())
    return effective_number(right, groups, spread=p * (1 - p))


def effective_number(
    values: NDArray[np.bool_ | np.float64], groups: NDArray[np.int64] | None, *, spread: float
) -> float:
    """Return the number of independent videos whose mean is as certain as the mean of `values`.

    It is n* of `accuracy_interval`, with `spread` in place of p (1 - p).

    Args:
        values: (V,) values of the videos.
        groups: (V,) number of each video's group; None if the videos are independent.
        spread: Variance of a single value.
    """
    total = len(values)
    _, group = np.unique(np.arange(total) if groups is None else groups, return_inverse=True)
    sizes = np.bincount(group)
    count = len(sizes)
    residuals = np.bincount(group, values) - float(values.mean()) * sizes
    variance = count / max(1, count - 1) * float(residuals @ residuals) / total**2
    fewest = total**2 / float(sizes @ sizes)
    if variance <= 0:
        # All groups have the same mean: more even than chance, unless all values are equal. The mean of a
        # single group shows nothing about other groups.
        return fewest if spread <= 0 or count == 1 else float(total)
    return max(fewest, spread / variance * _degrees_ratio(total, count))


def effective_interval(p: float, effective: float) -> Interval:
    """Return Wilson's interval of a proportion `p` that is as certain as over `effective` videos."""
    return wilson_interval(p * effective, effective)


def wilson_interval(hits: float, total: float, *, z: float = 1.959964) -> Interval:
    """Return Wilson's score interval of a proportion; (0, 1) without videos.

        (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    where p = hits / total and n = total. Source: Wilson (1927).

    >>> [round(x, 3) for x in wilson_interval(8, 10)]
    [0.49, 0.943]

    Args:
        hits: Number of correct videos.
        total: Number of videos, which may be an effective one.
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


def _rounding(videos: int | None) -> float:
    """Return the smallest standard deviation of accuracies over `videos` videos that differs from 0."""
    return 0.0 if videos is None else 1 / (2 * max(1, videos))


def _cut(interval: Interval, videos: int | None) -> Interval:
    """Cut the interval of accuracies to 0 to 1."""
    low, high = interval
    return interval if videos is None else (max(0.0, low), min(1.0, high))


def _degrees_ratio(videos: int, groups: int) -> float:
    """Return (t_n / t_G)^2 of `accuracy_interval`; 0 for a single group."""
    # An estimated variance is less certain than a known one, which Student's quantile allows for. Wilson's
    # interval has the quantile of the normal distribution, so the ratio scales the number of videos.
    return (_student(videos - 1, 0.95) / _student(groups - 1, 0.95)) ** 2 if groups > 1 else 0.0


def _student(degrees: int, confidence: float) -> float:
    """Return the quantile (1 + confidence) / 2 of Student's distribution."""
    # The quantile of scipy.stats.t is this function, and the import of scipy.special takes a third of the
    # time.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + confidence) / 2))
