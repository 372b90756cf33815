"""Records as accuracies and paired differences over the same test videos, with 95 % intervals.

Test videos of one figure are alike, so intervals draw groups of videos (`metrics.intervals`,
`scaling.bootstrap`). With several seeds, a video counts by the share of seeds that have it right: the
interval is that of the mean over these seeds on new videos.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evclip_ray.metrics.intervals import accuracy_interval
from evclip_ray.scaling.bootstrap import Score, interval_of_difference

from .experiments import Experiment


@dataclasses.dataclass(frozen=True)
class Value:
    """A measured number with its 95 % interval and its number of seeds, 0 where no seed matters."""

    value: float
    low: float
    high: float
    seeds: int = 1

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclasses.dataclass(frozen=True)
class PerVideo:
    """Share of seeds in which each video is right; see `scaling.bootstrap.PerVideo`."""

    videos: str
    right: NDArray[np.float64]
    groups: NDArray[np.int64] | None
    seeds: int

    @property
    def score(self) -> Score:
        """The same as a score of the bootstrap."""
        return Score(float(self.right.mean()), len(self.right), self)

    @property
    def accuracy(self) -> Value:
        """Accuracy with its interval over groups of videos."""
        low, high = accuracy_interval(self.right, self.groups)
        return Value(float(self.right.mean()), low, high, self.seeds)


class Results:
    """Records of finished experiments.

    Args:
        records: Records by key.
        seeds: Seeds that the claims use.
    """

    def __init__(self, records: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> None:
        self.records, self.seeds = records, tuple(seeds)

    def record(self, experiment: Experiment) -> Mapping[str, Any] | None:
        """Return the record of an experiment, None if it has none."""
        return self.records.get(experiment.key)

    def present(self, experiments: Iterable[Experiment]) -> list[Mapping[str, Any]]:
        """Return the records of those experiments that have one."""
        return [record for each in experiments if (record := self.record(each)) is not None]

    def right(self, experiments: Iterable[Experiment], predictor: str = "adapted") -> PerVideo | None:
        """Return the mean over experiments of each video's result; None if none of them is measured.

        Args:
            experiments: Runs that differ in their seed, on one data set.
            predictor: "adapted", "zero_shot" or "true_mask".
        """
        found = self.present(experiments)
        if not found:
            return None
        rows = [_bits(record["test"], predictor) for record in found]
        # Only training has a seed; the rows of the other predictors are equal.
        count = len(rows) if predictor == "adapted" else 0
        test = found[0]["test"]
        groups = np.array(test["groups"], np.int64)
        independent = len(np.unique(groups)) == len(groups)
        return PerVideo(test["videos"], np.mean(rows, axis=0), None if independent else groups, count)

    def accuracy(self, experiments: Iterable[Experiment], predictor: str = "adapted") -> Value | None:
        """Return the accuracy of runs that differ in their seed."""
        right = self.right(experiments, predictor)
        return None if right is None else right.accuracy

    def gain(self, experiments: Iterable[Experiment]) -> Value | None:
        """Return the gain of runs over zero-shot CLIP on the same videos, paired."""
        runs = list(experiments)
        before, after = self.right(runs, "zero_shot"), self.right(runs)
        return None if before is None or after is None else paired(before, after)

    def p_values(self, experiments: Iterable[Experiment]) -> list[float]:
        """Return the p-value of McNemar's exact test against zero-shot CLIP for each run."""
        tests = [record["test"] for record in self.present(experiments)]
        return [mcnemar(_bits(test, "zero_shot"), _bits(test, "adapted")) for test in tests]


def paired(before: PerVideo, after: PerVideo) -> Value:
    """Return the difference of two predictors on the same videos, with its interval."""
    low, high = interval_of_difference(before.score, after.score)
    return Value(after.score.top1 - before.score.top1, low, high, after.seeds)


def mcnemar(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of McNemar's exact test of two predictors on the same videos."""
    # `scipy.stats.binomtest` gives the same value; its import takes seconds.
    from scipy.special import bdtr

    gained, lost = int((after > before).sum()), int((after < before).sum())
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def mean_over_groups(values: NDArray[np.float64], groups: Sequence[int], *, seeds: int = 1) -> Value:
    """Return the mean over videos with the bootstrap interval over groups of videos."""
    _, group = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(group, values), np.bincount(group)
    draws = np.random.default_rng(0).integers(len(sizes), size=(2000, len(sizes)))
    means = sums[draws].sum(1) / sizes[draws].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Value(float(values.mean()), float(low), float(high), seeds)


def answers_of(record: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return 1 or 0 of the trained method for each test video of a record."""
    return _bits(record["test"], "adapted")


def _bits(test: Mapping[str, Any], predictor: str) -> NDArray[np.float64]:
    packed = np.frombuffer(bytes.fromhex(test["right"][predictor]), np.uint8)
    return np.unpackbits(packed, count=test["count"]).astype(np.float64)
