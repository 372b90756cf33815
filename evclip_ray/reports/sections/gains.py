"""Scores of evaluations against zero-shot CLIP on the same videos, with paired intervals."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evclip_ray.artifacts import ArtifactError
from evclip_ray.evaluation.of_checkpoint import has_training_data, is_evaluation_of
from evclip_ray.formatting import is_missing
from evclip_ray.metrics.paired import GROUP, Gain, paired_gain
from evclip_ray.reports.sections.evaluation import Evaluation
from evclip_ray.results import Study
from evclip_ray.training.per_video_scores import VideoScores


@dataclasses.dataclass(frozen=True)
class Scored:
    """Top-1 on one set of videos, and that of zero-shot CLIP on them.

    Attributes:
        where: Set of videos: "on the test split".
        top1: Top-1.
        low: Lower bound of its 95 % interval; NaN if unknown.
        high: Upper bound.
        zero_shot: Top-1 of zero-shot CLIP; NaN if it was not scored.
        gain: Gain over zero-shot CLIP; None if it is unknown.
        no_gain: Reason why the gain is unknown.
        note: What a reader must know about the score; empty for nothing.
        is_optimistic: Whether the videos chose the checkpoint and the score is not corrected for that.
        leaks: Whether some of the videos are in two splits.
        compares: Whether the method is another one than zero-shot CLIP.
    """

    where: str
    top1: float
    low: float = math.nan
    high: float = math.nan
    zero_shot: float = math.nan
    gain: Gain | None = None
    no_gain: str = ""
    note: str = ""
    is_optimistic: bool = False
    leaks: bool = False
    compares: bool = True


def is_of_best(evaluation: Evaluation, study: Study) -> bool:
    """Return whether an evaluation scored the best checkpoint that the study has now."""
    record = study.best_record
    return bool(record) and is_evaluation_of(evaluation.ledger, study.root / "best", record)


def is_of_training_data(evaluation: Evaluation, study: Study) -> bool:
    """Return whether an evaluation read the list of videos of the best trial."""
    return has_training_data(evaluation.ledger, study.best_record)


def evaluated(evaluation: Evaluation, where: str) -> Scored:
    """Return the score of an evaluation that has one of a checkpoint."""
    ledger = evaluation.ledger
    adapted, baseline = ledger["adapted"], ledger.get("zero_shot") or {}
    low, high = adapted["top1_interval"]
    gain, reason = gain_of(evaluation)
    return Scored(
        where,
        adapted["top1"],
        low,
        high,
        baseline.get("top1", math.nan),
        gain,
        reason,
        leaks=bool(ledger["counts"].get("leaking_rows")),
        compares=ledger["inputs"]["experiment"]["method"]["name"] != "zero_shot",
    )


def gain_of(evaluation: Evaluation, groups: NDArray[np.int64] | None = None) -> tuple[Gain | None, str]:
    """Return the gain of a checkpoint over zero-shot CLIP, or None and the reason.

    Args:
        evaluation: Evaluation with the predictions of both.
        groups: (V,) groups of the videos, for evaluations of versions that did not record them.
    """
    path = evaluation.root / "predictions.csv"
    if not path.is_file():
        return None, "the predictions of single videos are not stored"
    # As text: a class named "1" or "NA" must stay what it is.
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if not {"label", "zero_shot", "adapted"} <= set(table) or table.empty:
        return None, "the predictions of single videos are not stored"
    if GROUP in table:
        groups = table[GROUP].to_numpy(np.int64)
    elif (evaluation.ledger.get("zero_shot") or {}).get("groups") is None:
        groups = None
    elif groups is None or len(groups) != len(table):
        return None, "an earlier version did not record the groups of the videos"
    before, after = ((table[name] == table["label"]).to_numpy(bool) for name in ("zero_shot", "adapted"))
    return paired_gain(before, after, groups), ""


def validation_gain(
    study: Study, current: Sequence[Evaluation], *, top1: float, zero_shot: float
) -> tuple[Gain | None, str]:
    """Return the gain of the best trial on its validation videos, or None and the reason.

    The interval is that of the checkpoint's gain, moved to the gain of `top1` over `zero_shot`: `top1` may
    be corrected for the choice or a mean over epochs.

    Args:
        study: Results.
        current: Evaluations of the best checkpoint.
        top1: Score of the best trial.
        zero_shot: Score of zero-shot CLIP; NaN if it is unknown.
    """
    own = [
        each
        for each in current
        if each.ledger["inputs"]["split"] == "val"
        and each.ledger["inputs"]["protocol"] == "closed_set"
        and each.ledger.get("adapted")
        and is_of_training_data(each, study)
    ]
    if not own or is_missing(zero_shot):
        return None, "the predictions of zero-shot CLIP on single validation videos are not stored"
    gain, reason = gain_of(own[0], _recorded_groups(study))
    return (None, reason) if gain is None else (gain.moved(top1 - zero_shot - gain.value), "")


def _recorded_groups(study: Study) -> NDArray[np.int64] | None:
    try:
        scores = VideoScores.read(study.root / "best")
    # The groups are then unknown, which is the reported reason for a missing gain.
    except ArtifactError:
        return None
    return None if scores is None else scores.groups
