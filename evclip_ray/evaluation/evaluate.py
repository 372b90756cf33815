"""Evaluate a checkpoint, beside zero-shot CLIP on the same views.

This is the only place that opens the test split, and each opening leaves a line in the ledger of
the evaluation's folder.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evclip_ray.artifacts import LEDGER, ArtifactError, read_ledger, write_csv, write_ledger
from evclip_ray.evaluation.plan import Reading
from evclip_ray.metrics.multi_view import score_views
from evclip_ray.metrics.scoring import Scores, summary
from evclip_ray.models.methods.base import Method
from evclip_ray.training.build import autocast_dtype, build_method, pick_device, weights_of, zero_shot_of
from evclip_ray.training.checkpoint import load_adapter, read_record
from evclip_ray.training.datamodule import Videos
from evclip_ray.training.experiment import ExperimentConfig


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What an evaluation found on one side of a protocol.

    `numbers`: those of `evaluation.summary`, of "zero_shot" and (but in a zero-shot protocol) "adapted".
    `per_class`: class, its videos, and its accuracy in the order of `numbers`. `leaking_rows`: see
    `Videos`.
    """

    classes: tuple[str, ...]
    numbers: dict[str, dict[str, Any]]
    per_class: list[tuple[str, int, tuple[float, ...]]]
    weights: dict[str, str]
    skipped: int
    leaking_rows: int


def assess(reading: Reading, videos: dict[str, Videos], *, out: Path) -> dict[str, Assessment]:
    """Score the checkpoint and zero-shot CLIP on each side; tables go to `out`, or a folder a side there.

    Raises:
        ArtifactError: see `load_trained`.
    """
    return {
        side: _assess_side(reading, side, found, out if len(videos) == 1 else out / side)
        for side, found in videos.items()
    }


def load_trained(checkpoint: Path, experiment: ExperimentConfig, classes: Sequence[str]) -> Method:
    """The method of a checkpoint, among `classes`, over the frozen weights that it was trained on.

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


def _assess_side(reading: Reading, side: str, videos: Videos, out: Path) -> Assessment:
    baseline = build_method(zero_shot_of(reading.experiment), videos.classes)
    scored = {"zero_shot": _score(baseline, videos, reading)}
    if reading.protocol != "zero_shot":
        scored["adapted"] = _score_adapted(reading, videos)
    chosen = videos.sets[reading.split]
    found = Assessment(
        videos.classes,
        {name: dict(summary(scores.state)) for name, scores in scored.items()},
        _per_class(videos.classes, scored), weights_of(baseline.frozen) | _recorded_weights(reading),
        len(chosen.shards.skipped), videos.leaking_rows,
    )  # fmt: skip
    _write_tables(found, scored, chosen.shards.paths, out)
    _write_opening(found, reading, side, out)
    return found


def _recorded_weights(reading: Reading) -> dict[str, str]:
    weights: dict[str, str] = read_record(reading.checkpoint)["weights"]
    return {} if reading.protocol == "zero_shot" else weights


def _score_adapted(reading: Reading, videos: Videos) -> Scores:
    trained, classes = reading.trained, videos.classes
    if set(classes) <= set(trained):
        scores = _score(load_trained(reading.checkpoint, reading.experiment, trained), videos, reading)
        columns = [trained.index(name) for name in classes]
        return Scores(scores.logits[:, columns], scores.labels)
    try:
        method = load_trained(reading.checkpoint, reading.experiment, classes)
    except ArtifactError as problem:
        raise ArtifactError(
            f"{problem}; a method that trains tensors for each class reads its own classes only,"
            " as by --protocol cross_domain"
        ) from None
    return _score(method, videos, reading)


def _score(method: Method, videos: Videos, reading: Reading) -> Scores:
    device, chosen = pick_device(), videos.sets[reading.split]
    return score_views(
        method, chosen.shards, chosen.labels, views=reading.views, device=device,
        batch_size=reading.experiment.optim.eval_batch_size,
        dtype=autocast_dtype(reading.experiment, device),
    )  # fmt: skip


def _per_class(classes: Sequence[str], scored: dict[str, Scores]) -> list[tuple[str, int, tuple[float, ...]]]:
    states = [scores.state for scores in scored.values()]
    totals = states[0].confusion.sum(1)
    return [
        (name, int(totals[index]), tuple(float(state.per_class[index]) for state in states))
        for index, name in enumerate(classes)
    ]


def _write_tables(found: Assessment, scored: dict[str, Scores], paths: Sequence[str], out: Path) -> None:
    names, columns = list(found.classes), list(scored)
    write_csv(
        out / "per_class.csv", ["class", "videos", *columns],
        [[name, videos, *accuracies] for name, videos, accuracies in found.per_class],
    )  # fmt: skip
    last = scored[columns[-1]]
    confusion = [[name, *row] for name, row in zip(names, last.state.confusion.tolist(), strict=True)]
    write_csv(out / "confusion.csv", ["true \\ predicted", *names], confusion)
    answers = np.stack([scores.logits.argmax(1) for scores in scored.values()], axis=1)
    predictions = [
        [path, names[true], *(names[answer] for answer in row)]
        for path, true, row in zip(paths, last.labels, answers, strict=True)
    ]
    write_csv(out / "predictions.csv", ["path", "label", *columns], predictions)


def _write_opening(found: Assessment, reading: Reading, side: str, out: Path) -> None:
    openings = read_ledger(out, "evaluation")["openings"] if (out / LEDGER).is_file() else 0
    write_ledger(
        out, "evaluation",
        inputs={
            "checkpoint": str(reading.checkpoint), "split": reading.split, "protocol": reading.protocol,
            "side": side, "classes": found.classes, "views": reading.views.model_dump(),
            "experiment": reading.experiment.model_dump(mode="json"),
        },
        counts={"videos": int(found.numbers["zero_shot"]["videos"]), "leaking_rows": found.leaking_rows},
        zero_shot=found.numbers["zero_shot"], adapted=found.numbers.get("adapted"),
        weights=found.weights, openings=openings + 1,
    )  # fmt: skip
