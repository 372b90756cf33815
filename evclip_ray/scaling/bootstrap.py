"""Bootstrap of validation top-1 over videos, or over groups of videos.

Trials that were scored on the same V videos are resampled together: each draw takes V videos with
replacement and scores every trial on them. Their scores are then correlated as on new videos, so that
intervals of differences are narrower (paired bootstrap). Trials without per-video results are resampled
independently, with binomial hits; for a single trial this is the same distribution.

Videos of one group (person, place, recording) are alike. Where groups are recorded, a draw takes G of the G
groups with replacement, each with all its videos, and its distance from the measured top-1 is scaled by

    f = sqrt(G / (G - 1)) t / z

where t and z are the 97.5 % quantiles of Student's distribution with G - 1 degrees of freedom and of the
normal distribution. It corrects the percentiles of few groups, as in `metrics.intervals.bootstrap_interval`.
Source: Hesterberg (2015).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evclip_ray.formatting import counted
from evclip_ray.metrics.intervals import effective_videos, wilson_interval

Floats = NDArray[np.float64]
RESAMPLES = 1000
_CHUNK = 100
"""Draws of one matrix product: bounds the memory to _CHUNK x V counts."""


class PerVideo(Protocol):
    """Results on V videos, such as `VideoScores`."""

    @property
    def videos(self) -> str:
        """Digest of the videos."""

    @property
    def right(self) -> NDArray[np.bool_] | Floats:
        """Whether each video is right, or the share of epochs in which it is, (V,)."""

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """Number of each video's group, (V,); None if every video is a group of its own."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Validation top-1 over a number of videos. `each`: per-video results, None if they were not saved."""

    top1: float
    videos: int
    each: PerVideo | None = None


def resampled_top1(scores: Sequence[Score], *, resamples: int = RESAMPLES) -> Floats:
    """Return resampled top-1 of M scores, (resamples, M)."""
    rng = np.random.default_rng(0)
    draws = np.empty((resamples, len(scores)))
    for indices in _together(scores).values():
        known = [each for index in indices if (each := scores[index].each) is not None]
        # (V, M): one column per trial. The same row indices are drawn for all columns, which is what pairs
        # the trials.
        right = np.stack([each.right.astype(np.float64) for each in known], axis=1)
        draws[:, indices] = _drawn_together(right, _groups(known), resamples, rng)
    for index, score in enumerate(scores):
        if score.each is None:
            # V independent draws of hits at the measured rate: the bootstrap distribution of a single
            # accuracy.
            draws[:, index] = rng.binomial(score.videos, score.top1, resamples) / score.videos
    return draws


def uncertain_top1(scores: Sequence[Score]) -> Floats:
    """Return `resampled_top1` with a spread for every score, (RESAMPLES, M).

    Resampling 0/12, 12/12 or groups with equal shares always gives the measured top-1. Such a score is drawn
    from Jeffreys' Beta(n p + 1/2, n (1 - p) + 1/2) instead, where p is the top-1 and n its
    `effective_number`.
    """
    draws, rng = resampled_top1(scores), np.random.default_rng(1)
    for index, score in enumerate(scores):
        if np.ptp(draws[:, index]) < 1e-9:
            n = effective_number(score)
            draws[:, index] = rng.beta(n * score.top1 + 0.5, n * (1 - score.top1) + 0.5, len(draws))
    return draws


def _groups(known: Sequence[PerVideo]) -> NDArray[np.int64] | None:
    """Return the groups of the same videos: trials of earlier versions did not record them."""
    return next((each.groups for each in known if each.groups is not None), None)


def effective_number(score: Score) -> float:
    """Return the number of independent videos that a score is as certain as, see `accuracy_interval`."""
    if score.each is None or score.each.groups is None:
        return score.videos
    return min(score.videos, effective_videos(score.each.right, score.each.groups))


def interval_of_difference(before: Score, after: Score) -> tuple[float, float]:
    """Return the 95 % interval of the gain of one score over another.

    If no draw changes the gain, as between 12/12 and 12/12, the gain is known to that many videos only. The
    interval then reaches to Wilson's bound of 0 differing videos (or groups) on both sides.
    """
    draws = resampled_top1([before, after])
    # Per draw both scores are over the same videos, so the errors that they share cancel in the difference.
    low, high = middle(draws[:, 1] - draws[:, 0])
    if low < high:
        return low, high
    known = [each for each in (before.each, after.each) if each is not None]
    groups = _groups(known)
    count = min(before.videos, after.videos) if groups is None else len(np.unique(groups))
    _, bound = wilson_interval(0, count)
    return max(-1.0, low - bound), min(1.0, high + bound)


def how_drawn(scores: Sequence[Score]) -> str:
    """Describe how the scores were resampled, for readers of an interval."""
    apart, sets = sum(score.each is None for score in scores), len(_together(scores))
    if apart == len(scores):
        return "each trial by itself: which videos it has right was not kept"
    grouped = [each.groups is not None for score in scores if (each := score.each) is not None]
    unit = "groups of videos" if any(grouped) else "videos"
    text = f"paired over the same {unit}" if sets == 1 else f"paired within {sets} different sets of {unit}"
    return text if not apart else f"{text}; {apart} of {counted(len(scores), 'trial')} by themselves"


def _together(scores: Sequence[Score]) -> dict[str, list[int]]:
    """Return the indices of the scores by the set of videos that they were measured on."""
    indices: dict[str, list[int]] = {}
    for index, score in enumerate(scores):
        if score.each is not None:
            indices.setdefault(score.each.videos, []).append(index)
    return indices


def _drawn_together(
    right: Floats,
    groups: NDArray[np.int64] | None,
    resamples: int,
    rng: np.random.Generator,
) -> Floats:
    """Return means over videos drawn with replacement, (V, M) -> (resamples, M).

    Args:
        right: (V, M) whether a trial has a video right, 0 or 1, or the share of epochs in which it has.
        groups: (V,) group of each video; None draws single videos.
        resamples: Number of draws.
        rng: Random generator.
    """
    _, group = np.unique(np.arange(len(right)) if groups is None else groups, return_inverse=True)
    sizes = np.bincount(group)
    count = len(sizes)
    # (G, M): right videos of each group.
    hits = np.stack([np.bincount(group, column) for column in right.T], axis=1)

    def top1(draws: int) -> Floats:
        drawn = [np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(draws)]
        # (draws, G): how often each group is drawn. The counts times (G, M) hits are a matrix product;
        # indexing would create a (draws, G, M) array instead.
        times = np.stack(drawn).astype(np.float64)
        shares: Floats = times @ hits / (times @ sizes)[:, None]
        return shares

    chunks = [min(_CHUNK, resamples - start) for start in range(0, resamples, _CHUNK)]
    drawn = np.concatenate([top1(draws) for draws in chunks])
    if groups is None:
        return drawn
    measured = right.mean(axis=0)
    scaled: Floats = measured + _few_groups_factor(count) * (drawn - measured)
    return scaled


def _few_groups_factor(groups: int) -> float:
    """Return f of the module's docstring; 1 for a single group, whose draws are all equal."""
    # The import of scipy takes a third of a second, which most commands do not need.
    from scipy.special import stdtrit

    if groups < 2:
        return 1.0
    return math.sqrt(groups / (groups - 1)) * float(stdtrit(groups - 1, 0.975)) / 1.959964


def middle(draws: Floats) -> tuple[float, float]:
    """Return the 95 % percentile interval of draws."""
    # The percentile interval needs no assumption of a symmetric distribution.
    tail = (1 - 0.95) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def is_number(value: object) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float | np.number) and math.isfinite(float(value))
