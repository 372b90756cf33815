"""Means over several checkpoints of one experiment that differ in their seed."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evclip_ray.config import flatten
from evclip_ray.evaluation.evaluate import EvaluationResult
from evclip_ray.metrics.classification import harmonic_mean
from evclip_ray.metrics.intervals import IntervalKind, SeedMean, mean_over_seeds
from evclip_ray.training.checkpoint import read_record

METRICS = ("top1", "top5", "mean_class_accuracy")
MASK_METRICS = ("average_precision", "pointing_game")
"""Entries of `MaskQuality.record`; their means are named with the prefix `mask_`."""

HARMONIC = "harmonic"


@dataclasses.dataclass(frozen=True)
class CheckpointMean:
    """Mean of one metric over checkpoints.

    Attributes:
        side: Evaluation set; `HARMONIC` for the harmonic mean of base and novel top-1.
        scored: "adapted" or "zero_shot".
        metric: Name of the metric.
        mean: Mean, number of checkpoints and interval.
    """

    side: str
    scored: str
    metric: str
    mean: SeedMean

    def row(self) -> dict[str, Any]:
        """Return one row of a table. A single checkpoint has no interval."""
        low, high = self.mean.interval or (None, None)
        return {
            "side": self.side,
            "scored": self.scored,
            "metric": self.metric,
            "mean": self.mean.mean,
            "low": low,
            "high": high,
            "checkpoints": self.mean.num_seeds,
        }


def means_over_checkpoints(
    results: Sequence[Mapping[str, EvaluationResult]], *, interval: IntervalKind = "t"
) -> list[CheckpointMean]:
    """Return the means on each evaluation set, and the mean of the checkpoints' harmonic means.

    The intervals are over seeds on the same videos: they hold for other seeds, not for other videos.

    Args:
        results: Results of each checkpoint, by evaluation set.
        interval: Kind of the interval.
    """
    return [
        CheckpointMean(side, scored, metric, mean_over_seeds(values, interval=interval, videos=videos))
        for (side, scored, metric), values, videos in _columns(results)
    ]


def _columns(
    results: Sequence[Mapping[str, EvaluationResult]],
) -> Iterator[tuple[tuple[str, str, str], list[float], int]]:
    """Yield (set, scored, metric), its value for each checkpoint, and the number of videos behind a value."""
    for side, first in results[0].items():
        # `numbers` lists the baseline first; tables show the trained model first.
        for scored in reversed(first.numbers):
            for metric in METRICS:
                values = [sides[side].numbers[scored][metric] for sides in results]
                yield (side, scored, metric), values, first.numbers[scored]["videos"]
        records = [sides[side].mask_quality or {} for sides in results]
        for metric in MASK_METRICS:
            if all(metric in record for record in records):
                yield (
                    (side, "adapted", f"mask_{metric}"),
                    [record[metric] for record in records],
                    records[0]["scored"],
                )
    # The mean of harmonic means, not the harmonic mean of the means: the interval needs one value per
    # checkpoint.
    if set(results[0]) == {"base", "novel"}:
        for scored in reversed(results[0]["base"].numbers):
            videos = sum(results[0][side].numbers[scored]["videos"] for side in ("base", "novel"))
            yield (HARMONIC, scored, "top1"), [harmonic(sides, scored) for sides in results], videos


def harmonic(sides: Mapping[str, EvaluationResult], scored: str) -> float:
    """Return the harmonic mean of base and novel top-1 of one checkpoint."""
    base, novel = (sides[side].numbers[scored]["top1"] for side in ("base", "novel"))
    return harmonic_mean(base, novel)


def differing_settings(checkpoints: Sequence[Path]) -> list[str]:
    """Return the settings other than seeds in which checkpoints differ.

    If there are any, a mean over the checkpoints is not a mean over seeds. The result also contains "the
    same seed" if two checkpoints have equal seeds, since they may be the same run.
    """
    flat = [flatten(read_record(checkpoint)["experiment"]) for checkpoint in checkpoints]
    paths = sorted({path for settings in flat for path in settings})
    seeds = {"seed", "data.split_seed"}
    differing = [
        path
        for path in paths
        # str makes lists and mappings comparable in a set.
        if path not in seeds and len({str(settings.get(path)) for settings in flat}) > 1
    ]
    drawn = [tuple(settings.get(path) for path in sorted(seeds)) for settings in flat]
    return differing + (["the same seed"] if len(set(drawn)) < len(drawn) else [])
