"""Evaluate a checkpoint on one split, beside zero-shot CLIP on the same views.

This is the only place that opens the test split, and each opening leaves a line in the ledger of
the evaluation's folder.
"""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evclip_ray.artifacts import LEDGER, ArtifactError, read_ledger, write_ledger, write_text
from evclip_ray.evaluation.evaluate import Scores, score, summary
from evclip_ray.models.methods.base import Method
from evclip_ray.training.baseline import score_zero_shot
from evclip_ray.training.build import autocast_dtype, build_method, pick_device, weights_of
from evclip_ray.training.checkpoint import load_adapter, read_record
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.videos import VideoPlan, Videos, plan_videos


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What an evaluation found. `adapted` and `zero_shot`: the numbers of `evaluation.summary`."""

    split: str
    classes: tuple[str, ...]
    adapted: dict[str, Any]
    zero_shot: dict[str, Any]
    per_class: list[tuple[str, int, float, float]]
    weights: dict[str, str]
    skipped: int


def plan_assessment(
    checkpoint: Path, overrides: dict[str, Any], *, split: str, cache: Path
) -> tuple[ExperimentConfig, VideoPlan]:
    """Which videos a checkpoint will be scored on.

    Raises:
        ArtifactError: not a checkpoint, or the videos have labels that it was not trained for.
    """
    record = read_record(checkpoint)
    experiment = ExperimentConfig.load(record["experiment"], overrides)
    plan = plan_videos(experiment, cache=cache, splits=(split,))
    unknown = sorted(set(plan.classes) - set(record["classes"]))
    if unknown:
        raise ArtifactError(
            f"{checkpoint}: was trained for {len(record['classes'])} classes; the videos have "
            f"{len(unknown)} others ({', '.join(unknown[:5])}); give videos of its own classes"
        )
    return experiment, dataclasses.replace(plan, classes=tuple(record["classes"]))


def assess(
    checkpoint: Path, experiment: ExperimentConfig, videos: Videos, *, split: str, out: Path
) -> Assessment:
    """Score the checkpoint and zero-shot CLIP on `split`; tables go to `out`."""
    device = pick_device()
    method = load_trained(checkpoint, experiment, videos.classes)
    chosen = videos.sets[split]
    adapted = score(
        method, chosen.shards, chosen.labels, device=device,
        batch_size=experiment.optim.eval_batch_size, dtype=autocast_dtype(experiment, device),
    )  # fmt: skip
    zero_shot, _ = score_zero_shot(experiment, videos, split=split, device=device)
    found = Assessment(
        split, videos.classes, dict(summary(adapted.state)), dict(summary(zero_shot.state)),
        _per_class(videos.classes, adapted, zero_shot), weights_of(method.frozen), len(chosen.shards.skipped),
    )  # fmt: skip
    _write(found, adapted, zero_shot, chosen.shards.paths, checkpoint, experiment, out)
    return found


def load_trained(checkpoint: Path, experiment: ExperimentConfig, classes: Sequence[str]) -> Method:
    """The method of a checkpoint over the frozen weights that it was trained on.

    Raises:
        ArtifactError: other frozen weights than in training, or tensors that do not fit.
    """
    record = read_record(checkpoint)
    method = build_method(experiment, classes)
    weights = weights_of(method.frozen)
    if weights != record["weights"]:
        raise ArtifactError(
            f"{checkpoint}: was trained on frozen weights {record['weights']}, got {weights}; "
            "give the same ones by --set backbone.pretrained=..."
        )
    load_adapter(checkpoint, method)
    return method


def _per_class(
    classes: Sequence[str], adapted: Scores, zero_shot: Scores
) -> list[tuple[str, int, float, float]]:
    totals = adapted.state.confusion.sum(1)
    before, after = zero_shot.state.per_class, adapted.state.per_class
    return [(name, int(totals[i]), float(before[i]), float(after[i])) for i, name in enumerate(classes)]


def _write(
    found: Assessment,
    adapted: Scores,
    zero_shot: Scores,
    paths: Sequence[str],
    checkpoint: Path,
    experiment: ExperimentConfig,
    out: Path,
) -> None:
    names = list(found.classes)
    _write_csv(out / "per_class.csv", ["class", "videos", "zero_shot", "adapted"], found.per_class)
    confusion = [[name, *row] for name, row in zip(names, adapted.state.confusion.tolist(), strict=True)]
    _write_csv(out / "confusion.csv", ["true \\ predicted", *names], confusion)
    columns = zip(paths, adapted.labels, adapted.logits.argmax(1), zero_shot.logits.argmax(1), strict=True)
    predictions = [[path, names[true], names[after], names[before]] for path, true, after, before in columns]
    _write_csv(out / "predictions.csv", ["path", "label", "adapted", "zero_shot"], predictions)
    openings = read_ledger(out, "evaluation")["openings"] if (out / LEDGER).is_file() else 0
    write_ledger(
        out, "evaluation",
        inputs={
            "checkpoint": str(checkpoint), "split": found.split,
            "experiment": experiment.model_dump(mode="json"),
        },
        counts={"videos": int(found.adapted["videos"])},
        adapted=found.adapted, zero_shot=found.zero_shot, weights=found.weights, openings=openings + 1,
    )  # fmt: skip


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(
        ["" if isinstance(cell, float) and np.isnan(cell) else cell for cell in row] for row in rows
    )
    write_text(path, text.getvalue())
