"""Accuracy of the best of many candidates, corrected for the choice.

The best of many accuracies on the same videos is too high, because the choice favours the candidate that
these videos favour. The correction is a cross-validation of the choice: the videos (whole groups, where there
are groups) of each class are divided at random into K = 4 parts, the choice is made on all parts but one, and
the accuracy is read on the part that is left out:

    p = 1 / V sum_v mean over {b : v not in b} of right[c_b, v]

where b is one of B samples of videos, K for each of B / K divisions,
c_b is the candidate that is the best on sample b, and right[c, v] is 1 if candidate c has video v right.
Source: cross-validation of the whole procedure including the choice (Varma and Simon 2006). The candidates
were not trained on these videos, so that only the choice is repeated.

p is an unbiased estimate of the accuracy that is chosen with 3/4 of the videos, which is slightly lower than
that chosen with all. Bootstrap samples of V videos (BBC-CV, Tsamardinos, Greasidou and Borboudakis 2018)
choose as well as V / 2 different videos, because drawing adds as much variance as the videos have. Where
settings matter, their bias is 2 to 4 times as large. More parts lower the bias further, but the estimate
gets less certain, because the choice changes with single videos.

Parts have equal shares of each class, as validation videos have. Without that, the part that is left out has
few videos of the classes that the chosen candidate prefers: where candidates prefer classes, p is 2 to 4
points too low, on balanced validation videos.

The interval is `accuracy_interval` at p with 1 / 1.1 times the number of videos that is effective for the
chosen candidate, because p varies more than the accuracy of one fixed candidate. The parts and the factor are
those that cover best in the simulation `benchmarks/selection.py`.

The trials of a study depend on the videos in two more ways that are not repeated: the sampler draws points
near good ones, and the scheduler stops bad trials early. In the simulation `benchmarks/sampler.py`, the
default of 16 trials with TPE and ASHA leaves +1.3 of +11.4 points of bias and a coverage of 0.95.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evclip_ray.metrics.intervals import Interval, effective_interval, effective_videos

Floats = NDArray[np.float64]
Rule = Callable[[Floats], Floats]
"""Choice of epochs: (E, B) top-1 by epoch and sample -> (E, B) shares of the epochs, which sum to 1."""

RESAMPLES = 1000
_MAX_CELLS = 4_000_000
"""Largest size of a matrix of samples by videos: 16 MB in float32. There are about 200 samples or more.

More videos need fewer samples, because the choice varies less. With 20,000 videos, 200 samples move the
estimate by 0.05 points and take 0.05 s per trial of 50 epochs, against 0.23 s of 1000.
"""
_PARTS = 4
_WIDENING = 1.1


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One trial among those that the best is chosen from.

    Attributes:
        point: Trials with equal settings share a point; the best point is the one with the best mean.
        read: Returns (E, V), whether each video is right in each epoch. A thousand trials on many videos
            would fill the memory.
        in_bag: (B,) objective of the trial on each sample, see `objective_in_bag`.
        counts: Whether the trial is in the mean of its point. In a point without such a trial, the best of
            the others represents it.
    """

    point: object
    read: Callable[[], NDArray[np.bool_]]
    in_bag: Floats
    counts: bool = True


@dataclasses.dataclass(frozen=True)
class Corrected:
    """Accuracy after the correction for the choice, with its 95 % interval."""

    top1: float
    interval: Interval


@dataclasses.dataclass(frozen=True)
class Resampling:
    """Samples of V videos to choose on; the videos that a sample lacks are read.

    Attributes:
        shares: (B, V) share of each video in each sample.
        is_out: (B, V) whether a sample lacks the video.
    """

    shares: NDArray[np.float32]
    is_out: NDArray[np.bool_]

    def in_bag(self, right: NDArray[np.bool_], where: NDArray[np.intp] | slice = slice(None)) -> Floats:
        """Return the top-1 of each epoch on each sample, or on those of `where`: (E, V) -> (E, B)."""
        # Rounded, so that equal shares of right videos are ties and not ordered by rounding errors.
        return np.round(right.astype(np.float32) @ self.shares[where].T, 6).astype(np.float64)


def resampling(
    videos: int, groups: NDArray[np.int64] | None, classes: NDArray[np.int64] | None = None
) -> Resampling:
    """Return samples of `videos` videos. The same arguments give the same samples.

    Each division of the videos into four parts gives four samples, which lack one part each. There are fewer
    parts if there are fewer videos or groups. The only sample of a single group lacks nothing.

    Args:
        videos: V.
        groups: (V,) number of each video's group; None divides single videos.
        classes: (V,) class of each video, whose shares are equal in all parts. A group has the class of its
            first video. None if the classes are unknown.
    """
    return _resampling(videos, _packed(groups), _packed(classes))


def _packed(numbers: NDArray[np.int64] | None) -> bytes | None:
    return None if numbers is None else numbers.astype(np.int64).tobytes()


@functools.lru_cache(maxsize=2)
def _resampling(videos: int, groups: bytes | None, classes: bytes | None) -> Resampling:
    number = np.arange(videos) if groups is None else np.frombuffer(groups, np.int64)
    _, first, group = np.unique(number, return_index=True, return_inverse=True)
    # (G,) class of each group.
    label = np.zeros(len(first), np.int64) if classes is None else np.frombuffer(classes, np.int64)[first]
    count = int(group.max()) + 1
    if count == 1:
        return Resampling(np.full((1, videos), 1 / videos, np.float32), np.zeros((1, videos), bool))
    parts = min(_PARTS, count)
    divisions = int(np.clip(_MAX_CELLS // videos, 200, RESAMPLES)) // parts
    random = np.random.default_rng(0)
    part_of_group = np.empty((divisions, count), np.int64)
    for division in part_of_group:
        order = random.permutation(count)
        # Class by class, so that the parts of a division take turns in each class.
        division[order[np.argsort(label[order], kind="stable")]] = np.arange(count) % parts
    is_out = (part_of_group[:, None, group] == np.arange(parts)[:, None]).reshape(-1, videos)
    shares = (~is_out).astype(np.float32)
    return Resampling(shares / shares.sum(axis=1, keepdims=True), is_out)


def objective_in_bag(right: NDArray[np.bool_], rule: Rule, samples: Resampling) -> Floats:
    """Return the objective of a trial on each sample: (E, V) -> (B,)."""
    top1 = samples.in_bag(right)
    values: Floats = (rule(top1) * top1).sum(axis=0)
    return values


def corrected_for_choice(
    candidates: Sequence[Candidate],
    *,
    rule: Rule,
    best: int,
    groups: NDArray[np.int64] | None = None,
    classes: NDArray[np.int64] | None = None,
) -> Corrected | None:
    """Return the accuracy of the best candidate, corrected for its choice.

    Args:
        candidates: Trials to choose from, scored on the same V videos.
        rule: Choice of the epochs of a trial.
        best: Index of the candidate that is the best on all videos.
        groups: (V,) number of each video's group; None if the videos are independent.
        classes: (V,) class of each video; None if unknown.

    Returns:
        The estimate, or None if all videos are of one group, so that none can be left out.
    """
    own = candidates[best].read()
    videos = own.shape[1]
    samples = resampling(videos, groups, classes)
    if not samples.is_out.any():
        return None
    chosen = _shares_of_trials(candidates)
    answers = np.zeros(samples.is_out.shape, np.float32)
    for candidate, share in zip(candidates, chosen, strict=True):
        where = np.flatnonzero(share)
        if len(where):
            right = candidate.read()
            weights = rule(samples.in_bag(right, where)) * share[where]
            answers[where] += weights.T.astype(np.float32) @ right.astype(np.float32)
    # Every video is left out of one sample of each division.
    each = (answers * samples.is_out).sum(axis=0, dtype=np.float64) / samples.is_out.sum(axis=0)
    top1 = float(np.clip(each.mean(), 0, 1))
    # One column: the choice of the epochs on all videos.
    own_answers = rule(own.mean(axis=1, keepdims=True))[:, 0] @ own
    effective = min(float(videos), effective_videos(own_answers, groups)) / _WIDENING
    return Corrected(top1, effective_interval(top1, effective))


def _shares_of_trials(candidates: Sequence[Candidate]) -> Floats:
    """Return the share of each trial in the choice on each sample, (T, B). Ties share equally."""
    members: dict[object, list[int]] = {}
    for index, candidate in enumerate(candidates):
        members.setdefault(candidate.point, []).append(index)
    values = np.stack([candidate.in_bag for candidate in candidates])
    means = np.stack([_mean_of_point(values[rows], rows, candidates) for rows in members.values()])
    points = _equal_shares(means)
    shares = np.empty_like(values)
    for point, rows in zip(points, members.values(), strict=True):
        shares[rows] = _equal_shares(values[rows]) * point
    return shares


def _mean_of_point(values: Floats, rows: Sequence[int], candidates: Sequence[Candidate]) -> Floats:
    counted = [candidates[row].counts for row in rows]
    mean: Floats = values[counted].mean(axis=0) if any(counted) else values.max(axis=0)
    return mean


def _equal_shares(values: Floats) -> Floats:
    """Return equal shares of the largest values of each column; the shares of a column sum to 1."""
    # Means over seeds have rounding errors, which must not break ties.
    is_best = (values >= values.max(axis=0) - 1e-9).astype(np.float64)
    shares: Floats = is_best / is_best.sum(axis=0)
    return shares
