"""Evaluation of a checkpoint, compared with zero-shot CLIP on the same views.

Only this package opens the test split. Each opening is counted in the ledger of the evaluation's folder.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evclip_ray.artifacts import LEDGER, ArtifactError, file_digest, read_ledger, write_csv, write_ledger
from evclip_ray.evaluation.plan import EvaluationPlan
from evclip_ray.metrics.calibration import Calibration
from evclip_ray.metrics.calibration_measures import BIN_COLUMNS, CalibrationMeasures, measure_calibration
from evclip_ray.metrics.intervals import accuracy_interval
from evclip_ray.metrics.mask_quality import COLUMNS, MaskQuality, MaskScorer
from evclip_ray.metrics.multi_view import Coverage, Watch, coverage_line, score_views, spatial_coverage
from evclip_ray.metrics.paired import GROUP
from evclip_ray.metrics.rejection import COLUMNS as RISK_COLUMNS
from evclip_ray.metrics.scoring import Scores, summary
from evclip_ray.models.methods.base import Method
from evclip_ray.records import other_weights
from evclip_ray.training.build import (
    autocast_dtype,
    build_method,
    class_tensors,
    conditions_of,
    pick_device,
    weights_of,
    zero_shot_of,
)
from evclip_ray.training.checkpoint import ADAPTER, load_adapter, read_record
from evclip_ray.training.datamodule import Videos, VideoSet
from evclip_ray.training.experiment import ExperimentConfig


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """Result on one evaluation set of a protocol.

    Attributes:
        classes: Class names in index order.
        numbers: Metrics of "zero_shot" and, except in the zero-shot protocol, of "adapted".
        per_class: Class, number of its videos, and its accuracies in the order of `numbers`.
        weights: Origin of the frozen weights, by network.
        skipped: Videos that could not be decoded.
        leaking_rows: See `Videos`.
        coverage: Shares of the stored frames that the views cover.
        views: One line about the views and their coverage.
        conditions: Precision, device and activation of the forward passes.
        mask_quality: Quality of the adapted model's masks, see `MaskQuality.record`; None if the manifest
            names no masks or the method has none.
        extent: One line about how many of the listed videos were read.
        calibration: Measures of the checkpoint's calibration, see `CalibrationMeasures.record`; None for a
            checkpoint without one.
    """

    classes: tuple[str, ...]
    numbers: dict[str, dict[str, Any]]
    per_class: list[tuple[str, int, tuple[float, ...]]]
    weights: dict[str, str]
    skipped: int
    leaking_rows: int
    coverage: Coverage
    views: str
    conditions: dict[str, str] = dataclasses.field(default_factory=dict)
    mask_quality: dict[str, Any] | None = None
    extent: str = ""
    calibration: dict[str, Any] | None = None


def evaluate_checkpoint(
    plan: EvaluationPlan, videos: dict[str, Videos], *, out: Path, calibration: Calibration | None = None
) -> dict[str, EvaluationResult]:
    """Score a checkpoint and zero-shot CLIP on each evaluation set.

    Args:
        plan: Checkpoint, protocol and views.
        videos: Decoded videos by evaluation set.
        out: Folder of the tables. With several sets, each has a folder in it.
        calibration: Calibration of the checkpoint, which is measured on each set.

    Raises:
        ArtifactError: See `load_trained`.
    """
    return {
        name: _evaluate_set(plan, name, decoded, out if len(videos) == 1 else out / name, calibration)
        for name, decoded in videos.items()
    }


def load_trained(
    checkpoint: Path,
    experiment: ExperimentConfig,
    classes: Sequence[str],
    *,
    device: torch.device | None = None,
) -> Method:
    """Load the method of a checkpoint over the frozen weights that it was trained on.

    Args:
        checkpoint: Folder of the checkpoint.
        experiment: Settings of the run.
        classes: Class names that the method predicts.
        device: Device of the method; by default the GPU, or else the CPU.

    Raises:
        ArtifactError: The frozen weights differ from those of the training, or tensors do not fit.
    """
    record = read_record(checkpoint)
    method = build_method(experiment, classes, device=device)
    weights = weights_of(method.frozen)
    # A prompt is trained for the features of one network. On other weights it loads without error and is
    # useless.
    if weights != record["weights"]:
        raise ArtifactError(
            f"{checkpoint}: was trained with other frozen weights: "
            f"{other_weights(record['weights'], weights)}"
        )
    load_adapter(checkpoint, method)
    return method


def _evaluate_set(
    plan: EvaluationPlan, name: str, videos: Videos, out: Path, calibration: Calibration | None
) -> EvaluationResult:
    baseline = build_method(zero_shot_of(plan.experiment), videos.classes)
    chosen = videos.sets[plan.split]
    masks = MaskScorer(chosen.shards, plan.plans[name].manifest) if name in plan.plans else None
    scored = {"zero_shot": _score(baseline, videos, plan)}
    if plan.protocol != "zero_shot":
        scored["adapted"] = score_checkpoint(plan, videos, masks)
    quality = masks.result() if masks else None
    measures = _measure(calibration, scored, chosen, videos.classes)
    view = chosen.shards.view
    coverage = spatial_coverage(chosen.shards.sizes, view, plan.views)
    result = EvaluationResult(
        videos.classes,
        {kind: dict(summary(scores, chosen.groups)) for kind, scores in scored.items()},
        _per_class(videos.classes, scored),
        weights_of(baseline.frozen) | _recorded_weights(plan),
        len(chosen.shards.skipped),
        videos.leaking_rows,
        coverage,
        coverage_line(coverage, view, plan.views),
        conditions_of(baseline.frozen, plan.experiment, pick_device()),
        quality.record(chosen.groups) if quality else None,
        plan.extent(name) if name in plan.plans else "",
        measures.record if measures else None,
    )
    _write_tables(result, scored, chosen, quality, out)
    _write_calibration(measures, out)
    _write_opening(result, plan, name, out)
    return result


def _measure(
    calibration: Calibration | None, scored: dict[str, Scores], chosen: VideoSet, classes: tuple[str, ...]
) -> CalibrationMeasures | None:
    if calibration is None or "adapted" not in scored or not len(chosen):
        return None
    return measure_calibration(calibration, scored["adapted"], classes, chosen.groups, videos=chosen.key)


def _recorded_weights(plan: EvaluationPlan) -> dict[str, str]:
    weights: dict[str, str] = read_record(plan.checkpoint)["weights"]
    return {} if plan.protocol == "zero_shot" else weights


def score_checkpoint(plan: EvaluationPlan, videos: Videos, watch: Watch | None = None) -> Scores:
    """Score the checkpoint of a plan.

    Args:
        plan: Checkpoint, split and views.
        videos: Decoded videos of an evaluation set.
        watch: Function that is called for every batch of every view.

    Raises:
        ArtifactError: See `load_trained`; or the classes are new, and the method has tensors for each class.
    """
    trained, classes = plan.trained, videos.classes
    # Known classes: predictions compete among all trained classes, of which the columns of this set are
    # taken.
    if set(classes) <= set(trained):
        scores = _score(load_trained(plan.checkpoint, plan.experiment, trained), videos, plan, watch)
        columns = [trained.index(name) for name in classes]
        return Scores(scores.logits[:, columns], scores.labels)
    try:
        # New classes: the method is built with their names, which needs tensors without a row per class.
        method = load_trained(plan.checkpoint, plan.experiment, classes)
        belonging = class_tensors(method, plan.experiment, classes)
        if belonging:
            # For as many classes as in the training they load without an error.
            raise ArtifactError(
                f"{plan.checkpoint}: {', '.join(belonging[:3])} belong to the trained classes"
            )
    except ArtifactError as problem:
        raise ArtifactError(
            f"{problem}. A method with trained tensors per class can only be evaluated on its own classes; "
            "use --protocol cross_domain."
        ) from None
    return _score(method, videos, plan, watch)


def _score(method: Method, videos: Videos, plan: EvaluationPlan, watch: Watch | None = None) -> Scores:
    device, chosen = pick_device(), videos.sets[plan.split]
    return score_views(
        method,
        chosen.shards,
        chosen.labels,
        views=plan.views,
        device=device,
        batch_size=plan.experiment.optim.eval_batch_size,
        dtype=autocast_dtype(plan.experiment, device),
        watch=watch,
    )


def _per_class(classes: Sequence[str], scored: dict[str, Scores]) -> list[tuple[str, int, tuple[float, ...]]]:
    # All models are scored on the same videos, so the totals of the first one hold for all.
    states = [scores.state for scores in scored.values()]
    totals = states[0].confusion.sum(1)
    return [
        (name, int(totals[index]), tuple(float(state.per_class[index]) for state in states))
        for index, name in enumerate(classes)
    ]


def _write_tables(
    result: EvaluationResult,
    scored: dict[str, Scores],
    chosen: VideoSet,
    quality: MaskQuality | None,
    out: Path,
) -> None:
    names, columns = list(result.classes), list(scored)
    bounds = [f"{column}_{bound}" for column in columns for bound in ("low", "high")]
    write_csv(
        out / "per_class.csv",
        ["class", "videos", *columns, *bounds],
        [
            [name, videos, *accuracies, *_intervals_of_class(index, scored, chosen)]
            for index, (name, videos, accuracies) in enumerate(result.per_class)
        ],
    )
    last = scored[columns[-1]]
    confusion = [[name, *row] for name, row in zip(names, last.state.confusion.tolist(), strict=True)]
    write_csv(out / "confusion.csv", ["true \\ predicted", *names], confusion)
    predicted = np.stack([scores.logits.argmax(1) for scores in scored.values()], axis=1)
    predictions = [
        [path, names[true], *(names[index] for index in row)]
        for path, true, row in zip(chosen.shards.paths, last.labels, predicted, strict=True)
    ]
    header = ["path", "label", *columns]
    if quality:
        header += COLUMNS
        for row, values in zip(predictions, quality.by_video.tolist(), strict=True):
            row += ["" if math.isnan(value) else round(value, 6) for value in values]
    if chosen.groups is not None:
        # Intervals of differences between models need the groups of the videos.
        header.append(GROUP)
        predictions = [[*row, group] for row, group in zip(predictions, chosen.groups.tolist(), strict=True)]
    write_csv(out / "predictions.csv", header, predictions)


def _intervals_of_class(index: int, scored: dict[str, Scores], chosen: VideoSet) -> list[float]:
    """Return the bounds of the class's accuracy for each model in order."""
    bounds: list[float] = []
    for scores in scored.values():
        of_class = scores.labels == index
        groups = None if chosen.groups is None else chosen.groups[of_class]
        bounds += accuracy_interval(scores.right[of_class], groups)
    return bounds


def _write_calibration(measures: CalibrationMeasures | None, out: Path) -> None:
    tables = {"reliability.csv": BIN_COLUMNS, "risk_coverage.csv": RISK_COLUMNS}
    rows = [measures.bins, measures.curve.rows()] if measures else [None, None]
    for (name, columns), table in zip(tables.items(), rows, strict=True):
        if table is None:
            # Those of an earlier evaluation must not describe this one.
            (out / name).unlink(missing_ok=True)
        else:
            write_csv(out / name, columns, table, digits=6)


def _write_opening(result: EvaluationResult, plan: EvaluationPlan, name: str, out: Path) -> None:
    # The count shows how often the test split was looked at: choosing by it would make its score optimistic.
    openings = read_ledger(out, "evaluation")["openings"] if (out / LEDGER).is_file() else 0
    # Added only where it is known, so that the ledgers of other evaluations stay as they are.
    more: dict[str, Any] = {
        name: value for name in ("mask_quality", "calibration") if (value := getattr(result, name))
    }
    write_ledger(
        out,
        "evaluation",
        inputs={
            "checkpoint": str(plan.checkpoint),
            "split": plan.split,
            "protocol": plan.protocol,
            # The historical key of an evaluation set.
            "side": name,
            "classes": result.classes,
            "views": plan.views.model_dump(),
            "experiment": plan.experiment.model_dump(mode="json"),
        },
        coverage=result.coverage._asdict(),
        counts={"videos": int(result.numbers["zero_shot"]["videos"]), "leaking_rows": result.leaking_rows},
        zero_shot=result.numbers["zero_shot"],
        adapted=result.numbers.get("adapted"),
        weights=result.weights,
        conditions=result.conditions,
        openings=openings + 1,
        # A model card shows the scores of these tensors only.
        adapter=file_digest(plan.checkpoint / ADAPTER),
        **more,
    )
