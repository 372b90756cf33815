"""What several checkpoints of one experiment, which differ in their seed, give together."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evclip_ray.config import flatten
from evclip_ray.evaluation.evaluate import Assessment
from evclip_ray.metrics.classification import harmonic_mean
from evclip_ray.metrics.intervals import IntervalKind, SeedMean, over_seeds
from evclip_ray.training.checkpoint import read_record

METRICS = ("top1", "top5", "mean_class_accuracy")
HARMONIC = "harmonic"


@dataclasses.dataclass(frozen=True)
class CheckpointMean:
    """The mean of one metric over checkpoints; `side` is `HARMONIC` for that of base and novel top-1.

    `scored`: "adapted" or "zero_shot".
    """

    side: str
    scored: str
    metric: str
    mean: SeedMean

    def row(self) -> dict[str, Any]:
        """A line of a table; without an interval where there is one checkpoint."""
        low, high = self.mean.interval or (None, None)
        return {
            "side": self.side, "scored": self.scored, "metric": self.metric, "mean": self.mean.mean,
            "low": low, "high": high, "checkpoints": self.mean.num_seeds,
        }  # fmt: skip


def over_checkpoints(
    found: Sequence[Mapping[str, Assessment]], *, interval: IntervalKind = "t"
) -> list[CheckpointMean]:
    """Means of the sides of a protocol, and of the harmonic mean that each checkpoint reaches."""
    return [
        CheckpointMean(side, scored, metric, over_seeds(values, interval=interval))
        for (side, scored, metric), values in _columns(found)
    ]


def _columns(
    found: Sequence[Mapping[str, Assessment]],
) -> Iterator[tuple[tuple[str, str, str], list[float]]]:
    for side, first in found[0].items():
        for scored in reversed(first.numbers):
            for metric in METRICS:
                yield (side, scored, metric), [sides[side].numbers[scored][metric] for sides in found]
    if set(found[0]) == {"base", "novel"}:
        for scored in reversed(found[0]["base"].numbers):
            yield (HARMONIC, scored, "top1"), [harmonic(sides, scored) for sides in found]


def harmonic(sides: Mapping[str, Assessment], scored: str) -> float:
    """The harmonic mean of base and novel top-1 of one checkpoint."""
    base, novel = (sides[side].numbers[scored]["top1"] for side in ("base", "novel"))
    return harmonic_mean(base, novel)


def not_seeds_of_one(checkpoints: Sequence[Path]) -> list[str]:
    """The settings, but for seeds, in which checkpoints differ: a mean over them is none over seeds.

    A checkpoint whose seed is another's is named too: two readings of one run are no two runs.
    """
    flat = [flatten(read_record(checkpoint)["experiment"]) for checkpoint in checkpoints]
    paths = sorted({path for settings in flat for path in settings})
    seeds = {"seed", "data.split_seed"}
    found = [
        path
        for path in paths
        if path not in seeds and len({str(settings.get(path)) for settings in flat}) > 1
    ]
    drawn = [tuple(settings.get(path) for path in sorted(seeds)) for settings in flat]
    return found + (["the same seed"] if len(set(drawn)) < len(drawn) else [])
