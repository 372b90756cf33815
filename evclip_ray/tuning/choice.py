"""The best trial of a study, corrected for its choice among trials and epochs (`metrics.choice`)."""

import dataclasses
import functools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evclip_ray.formatting import counted
from evclip_ray.metrics.choice import Candidate, Rule, corrected_for_choice, objective_in_bag, resampling
from evclip_ray.metrics.intervals import Interval, accuracy_interval, wilson_interval
from evclip_ray.objective import objective_weights, window
from evclip_ray.records import TrialRecord
from evclip_ray.training.per_video_scores import EpochAnswers


@dataclasses.dataclass(frozen=True)
class AnsweredTrial(TrialRecord):
    """A trial with its answers on each validation video; None if it has no record of them."""

    answers: EpochAnswers | None = None

    @property
    def known_answers(self) -> EpochAnswers | None:
        """Answers of every scored epoch in the history, or None if those of an epoch are missing."""
        scored = [epoch.epoch for epoch in self.history if math.isfinite(epoch.val_top1)]
        if self.answers is None:
            return None
        # A running trial may have saved an epoch after its history was read.
        answers = self.answers.until(self.last.epoch)
        return answers if answers.epochs.tolist() == scored else None


def interval_of(trial: TrialRecord) -> Interval:
    """Return the 95 % interval of a trial's score, over groups of videos where there are groups."""
    known, videos = right_shares(trial), trial.last.val_videos
    if known is not None and known[0].groups is not None:
        return accuracy_interval(known[1], known[0].groups)
    return wilson_interval(trial.best.number("val_top1", 0.0) * videos, videos)


def right_shares(trial: TrialRecord) -> tuple[EpochAnswers, NDArray[np.float64]] | None:
    """Return a trial's answers, and for each video the share of the epochs of its score in which it is right.

    Returns None if the trial has no score or no record of the answers of each epoch.
    """
    best, answers = trial.best, trial.known_answers if isinstance(trial, AnsweredTrial) else None
    if answers is None or not best.epoch:
        return None
    return answers, _shares(answers, best.epoch - (window(trial.objective) or 1) + 1, best.epoch)


def correction(trials: Sequence[TrialRecord], points: Sequence[object], best: int) -> Mapping[str, Any]:
    """Return the fields of the best trial's row about the choice and its correction.

    Args:
        trials: Trials of the study that have a score.
        points: Point of each trial. Trials that differ in their seed only share it.
        best: Index of the best trial.
    """
    fields: dict[str, Any] = {"chosen_from": _chosen_from(trials)}
    if not fields["chosen_from"]:
        return fields
    answers = [trial.known_answers if isinstance(trial, AnsweredTrial) else None for trial in trials]
    known = [each for each in answers if each is not None]
    if len(known) < len(trials):
        number = len(trials) - len(known)
        return fields | {
            "corrected_note": f"{number} of {counted(len(trials), 'trial')} "
            f"{'has' if number == 1 else 'have'} no record of each epoch's right videos "
            "(older versions did not keep it)"
        }
    if len({each.videos for each in known}) > 1:
        return fields | {"corrected_note": "the trials were scored on different validation videos"}
    objective = trials[best].objective
    # The digest of the videos contains their labels. Runs of older versions kept the digest only.
    classes = next((each.classes for each in known if each.classes is not None), None)
    candidates = [
        Candidate(
            point,
            functools.partial(_right, each),
            _in_bag(each, objective, classes),
            trial.state.has_final_score,
        )
        for trial, point, each in zip(trials, points, known, strict=True)
    ]
    corrected = corrected_for_choice(
        candidates, rule=_rule(objective), best=best, groups=known[best].groups, classes=classes
    )
    if corrected is None:
        is_one = known[best].count == 1
        note = "there is only one validation video" if is_one else "all validation videos are of one group"
        return fields | {"corrected_note": note}
    low, high = corrected.interval
    fields |= {"corrected_top1": corrected.top1, "corrected_top1_low": low, "corrected_top1_high": high}
    return fields


def _chosen_from(trials: Sequence[TrialRecord]) -> str:
    """Describe what the best was chosen from; empty without a choice."""
    epochs = sorted({trial.last.epoch for trial in trials})
    if window(trials[0].objective) is not None:
        # The objective fixes the epoch, so that only trials are chosen.
        return counted(len(trials), "trial") if len(trials) > 1 else ""
    if len(trials) == 1 and epochs == [1]:
        return ""
    each = (
        counted(epochs[0], "epoch")
        if len(epochs) == 1
        else f"{epochs[0]:,} to {counted(epochs[-1], 'epoch')}"
    )
    return f"{counted(len(trials), 'trial')} x {each}"


def _right(answers: EpochAnswers) -> NDArray[np.bool_]:
    return answers.right


def _rule(objective: str) -> Rule:
    return functools.partial(objective_weights, objective=objective)


def _shares(answers: EpochAnswers, first: int, last: int) -> NDArray[np.float64]:
    def compute() -> NDArray[np.float64]:
        chosen = (answers.epochs >= first) & (answers.epochs <= last)
        of_chosen = dataclasses.replace(answers, packed=answers.packed[chosen])
        shares: NDArray[np.float64] = of_chosen.right.mean(axis=0)
        return shares

    return _cached(answers, (first, last), compute)


def _in_bag(answers: EpochAnswers, objective: str, classes: NDArray[np.int64] | None) -> NDArray[np.float64]:
    def compute() -> NDArray[np.float64]:
        samples = resampling(answers.count, answers.groups, classes)
        return objective_in_bag(answers.right, _rule(objective), samples)

    return _cached(answers, (objective, classes is None), compute)


# The leaderboard is written after each trial, and most trials have not changed since then. The answers of a
# running trial are read again each time, so that results must not outlive their answers.
_results: weakref.WeakKeyDictionary[EpochAnswers, dict[object, NDArray[np.float64]]] = (
    weakref.WeakKeyDictionary()
)


def _cached(
    answers: EpochAnswers, key: object, compute: Callable[[], NDArray[np.float64]]
) -> NDArray[np.float64]:
    of_answers = _results.setdefault(answers, {})
    if key not in of_answers:
        of_answers[key] = compute()
    return of_answers[key]
