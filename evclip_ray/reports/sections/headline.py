"""Headline of a study's report: the answer to its question, in one sentence, and what qualifies it.

The test split comes first where it was evaluated. Otherwise the sentence has the validation score after the
correction for the choice, and the gain is moved by the same correction.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evclip_ray.formatting import brief_path, counted, is_missing, sample_size, short
from evclip_ray.metrics.paired import Gain
from evclip_ray.records import TrialState, is_random, scored_on
from evclip_ray.reports.document import Headline
from evclip_ray.reports.sections.conditions import weights
from evclip_ray.reports.sections.evaluation import Evaluation
from evclip_ray.reports.sections.gains import (
    Scored,
    evaluated,
    is_of_best,
    is_of_training_data,
    validation_gain,
)
from evclip_ray.results import Study

_NAMES = {"ev_clip": "EV-CLIP", "ez_clip": "EZ-CLIP", "zero_shot": "Zero-shot CLIP"}
_PROMPTS = {"both": "both prompts", "mask": "mask prompt", "context": "context prompt"}


@dataclasses.dataclass(frozen=True)
class Caveats:
    """Reasons to doubt a number.

    Attributes:
        random: Networks with random weights.
        leaks: Whether videos are in two splits.
        unfinished: Number of trials that have not ended.
    """

    random: Sequence[str] = ()
    leaks: bool = False
    unfinished: int = 0


def study_headline(study: Study, evaluations: Sequence[Evaluation]) -> Headline:
    """Return the headline of a study.

    Args:
        study: Results.
        evaluations: Evaluation sets of checkpoints of the study.
    """
    best = study.best
    if best is None:
        return Headline(no_result(study.trials))
    current = [each for each in evaluations if is_of_best(each, study)]
    tests = [each for each in current if _is_test(each, study)]
    validation = validation_score(study, best, current)
    score = evaluated(tests[0], f"on the test split{_views(tests[0])}") if tests else validation
    caveats = Caveats(
        random_parts(study),
        bool(score.leaks or best["leaking_rows"]),
        int((~study.trials["state"].map(lambda state: TrialState(state).has_ended)).sum()),
    )
    name = method_name(study, best)
    if name == _NAMES["zero_shot"] and _has_other_method(study):
        # Only the leaderboard compares the methods. The test split has the best one alone.
        name = f"{name}, which no other method exceeds on validation"
    others = [each for each in current if each not in tests[:1] and _is_other(each, study)]
    stale = [each.root.name for each in evaluations if each not in current]
    details = [
        *_of_validation(best, validation, has_test=bool(tests)),
        *_of_seeds(best),
        *_of_values(study),
        *(_of_evaluation(each) for each in others),
        *_of_openings(tests),
        *(f"{folder}/ scored another checkpoint than best/, so it is not counted here." for folder in stale),
    ]
    return Headline(sentence(name, score, caveats), details)


def tests_of(study: Study, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the evaluations of the best checkpoint on the whole test split of its own list."""
    return [each for each in evaluations if is_of_best(each, study) and _is_test(each, study)]


def sentence(name: str, score: Scored, caveats: Caveats) -> str:
    """Return the sentence of a score.

    Args:
        name: Name of the method, with what varies.
        score: Score and that of zero-shot CLIP.
        caveats: Reasons to doubt the score.
    """
    interval = "" if is_missing(score.low) else f" ({score.low:.2f} to {score.high:.2f})"
    has_baseline = score.compares and not is_missing(score.zero_shot)
    parts = [f"{name}: top-1 {score.top1:.2f}{interval} {score.where}"]
    parts += [score.note] if score.note else []
    parts += [f"against {score.zero_shot:.2f} for zero-shot CLIP"] if has_baseline else []
    text = ", ".join(parts)
    if caveats.unfinished:
        text = f"So far, with {counted(caveats.unfinished, 'trial')} not ended, {text}"
    if score.compares and not has_baseline:
        text += "; zero-shot CLIP was not scored on these videos"
    if has_baseline and not caveats.random and not caveats.leaks:
        text += f"; {verdict(score)}"
    text += "."
    if caveats.leaks:
        text += " Leaks between the splits make these numbers too high."
    if caveats.random:
        text = f"{random_note(caveats.random)} {text}"
    return text


def random_parts(study: Study) -> list[str]:
    """Return the networks of the best trial whose weights are random."""
    return [part for part, origin in weights(study).items() if is_random(origin)]


def random_note(networks: Sequence[str]) -> str:
    """Return the sentence about networks with random weights."""
    return f"Random weights in {' and '.join(networks)}: these numbers do not reflect a trained CLIP."


def verdict(score: Scored) -> str:
    """Return whether a gain is beyond chance, with its interval."""
    gain = score.gain
    if gain is None:
        return f"whether the difference is beyond chance is not known, because {score.no_gain}"
    if not gain.is_beyond_chance:
        sample = sample_size(gain.videos, gain.groups)
        return f"the difference of {_signed(gain)} cannot be told from chance on {sample}"
    if gain.low > 0:
        text = f"the gain of {beyond_zero(gain.value, gain.low, gain.high)}"
        return f"{text} is {'not corrected for that choice' if score.is_optimistic else 'beyond chance'}"
    return f"it is worse by {beyond_zero(-gain.value, -gain.high, -gain.low)}, which is beyond chance"


def validation_score(study: Study, best: Mapping[str, Any], current: Sequence[Evaluation]) -> Scored:
    """Return the score of the best trial that selected it, corrected for the choice where that is known.

    Args:
        study: Results.
        best: Row of the best trial.
        current: Evaluations of the best checkpoint, which have the predictions of zero-shot CLIP.
    """
    has_choice = bool(best["chosen_from"])
    is_corrected = has_choice and not is_missing(best["corrected_top1"])
    column = "corrected_top1" if is_corrected else "val_top1"
    note = "corrected for the choice" if is_corrected else ""
    if has_choice and not is_corrected:
        note = "which is optimistic because these videos chose it"
    top1, low, high = (float(best[f"{column}{end}"]) for end in ("", "_low", "_high"))
    zero_shot = _zero_shot(study, best)
    gain, reason = validation_gain(study, current, top1=top1, zero_shot=zero_shot)
    return Scored(
        _where(study),
        top1,
        low,
        high,
        zero_shot,
        gain,
        reason,
        note=note,
        is_optimistic=has_choice and not is_corrected,
        leaks=bool(best["leaking_rows"]),
        compares=_setting(study, best, "method.name") != "zero_shot",
    )


def _zero_shot(study: Study, best: Mapping[str, Any]) -> float:
    """Return the score of zero-shot CLIP on the views of the best trial; NaN if it is unknown."""
    if not is_missing(best["zero_shot_top1"]):
        return float(best["zero_shot_top1"])
    # Under several conditions it is not known which ones are those of the trial.
    return float(study.zero_shot["top1"].iloc[0]) if len(study.zero_shot) == 1 else math.nan


def no_result(trials: pd.DataFrame) -> str:
    """Return why a study has no score.

    Args:
        trials: Trials of the study, none of which has a score.
    """
    if trials.empty:
        return "No trial has started yet, so there is no result."
    counts = trials["state"].value_counts()
    states = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    failed = trials[trials["state"] == TrialState.FAILED]
    if len(failed) == len(trials):
        every = "The only trial" if len(trials) == 1 else f"All {counted(len(trials), 'trial')}"
        return f"{every} failed, so there is no result. The first error: {failed['error'].iloc[0]}"
    return f"No trial has a score, so there is no result ({states})."


def method_name(study: Study, best: Mapping[str, Any]) -> str:
    """Return the method of the best trial with its prompts and what else of the model was searched."""
    method = _setting(study, best, "method.name")
    words = [_NAMES.get(method, method)]
    if method == "ev_clip" and (prompts := _setting(study, best, "method.prompts")):
        words.append(_PROMPTS.get(prompts, prompts))
    if "backbone.name" in study.searched:
        words.append(f"on {_setting(study, best, 'backbone.name')}")
    return ", ".join(word for word in words if word) or "The best trial"


def _setting(study: Study, best: Mapping[str, Any], path: str) -> str:
    """Return a setting of the best trial as text; empty if it is not recorded."""
    if not is_missing(best.get(path)):
        return str(best[path])
    tree: Any = study.best_record.get("experiment") or study.ledger.get("inputs", {}).get("fixed", {})
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return "" if tree is None else str(tree)


def _has_other_method(study: Study) -> bool:
    """Return whether a trial of another method than zero-shot CLIP has a score."""
    if "method.name" not in study.searched:
        return False
    scored = study.trials[study.trials["val_top1"].notna()]
    return bool((scored["method.name"] != "zero_shot").any())


def _where(study: Study) -> str:
    text = scored_on(study.ledger.get("selection", {}).values())
    return (
        f"in {text}" if text.endswith("-fold cross-validation") and " or " not in text else f"on the {text}"
    )


def _is_test(evaluation: Evaluation, study: Study) -> bool:
    """Return whether an evaluation scored the whole test split of the training's own list."""
    inputs = evaluation.ledger["inputs"]
    return (
        inputs["split"] == "test"
        and inputs["protocol"] == "closed_set"
        and inputs.get("side", "test") == "test"
        and bool(evaluation.ledger.get("adapted"))
        and is_of_training_data(evaluation, study)
    )


def _views(evaluation: Evaluation) -> str:
    """Return the views of an evaluation in brackets; empty for one view, as on validation."""
    views = evaluation.ledger["inputs"].get("views", {})
    text = f"{views.get('temporal', 1)}x{views.get('spatial', 1)}"
    return "" if text == "1x1" else f" ({text} views)"


def _is_other(evaluation: Evaluation, study: Study) -> bool:
    """Return whether an evaluation is not that of the validation split, which the report makes itself."""
    return evaluation.ledger["inputs"]["split"] != "val" or not is_of_training_data(evaluation, study)


def _of_openings(tests: Sequence[Evaluation]) -> list[str]:
    """Return how often the test split was opened, if more than once: choosing by it makes it optimistic."""
    openings = int(tests[0].ledger.get("openings", 1)) if tests else 1
    if openings < 2:
        return []
    return [f"The test split was opened {counted(openings, 'time')} for {tests[0].root.name}/."]


def _of_validation(best: Mapping[str, Any], score: Scored, *, has_test: bool) -> list[str]:
    """Return the lines about the validation score that are not in the sentence."""
    before = f"{best['val_top1']:.2f} for the best of {best['chosen_from']}"
    is_corrected = score.note.startswith("corrected")
    reason = (
        [f"It cannot be corrected for the choice: {best['corrected_note']}."] if score.is_optimistic else []
    )
    if not has_test:
        lines = [f"Before the correction, top-1 was {before}."] if is_corrected else reason
        return [*lines, "It was not evaluated on test videos."]
    top1 = f"top-1 {ranged(score.top1, score.low, score.high)}"
    note = f", {score.note}" if score.note else ""
    note += f", before that {before}" if is_corrected else ""
    baseline = "" if is_missing(score.zero_shot) else f"; zero-shot CLIP {score.zero_shot:.2f}"
    return [f"{score.where[0].upper()}{score.where[1:]}: {top1}{note}{baseline}.", *reason]


def _of_seeds(best: Mapping[str, Any]) -> list[str]:
    seeds = int(best["point_seeds"])
    if seeds < 2:
        return []
    mean = ranged(best["point_top1"], best["point_top1_low"], best["point_top1_high"])
    where = "on the videos that scored the trials"
    return [f"Mean of the {counted(seeds, 'seed')} of these settings: {mean} {where}."]


def _of_values(study: Study) -> list[str]:
    """Return the best score of each value of a balanced choice, before any correction."""
    table = study.by_value
    if table.empty or len(table) < 2:
        return []
    scores = []
    for row in table.to_dict("records"):
        score = "no score" if is_missing(row["val_top1"]) else f"{row['val_top1']:.2f}"
        scores.append(f"{short(row[study.balanced])} {score}")
    name = brief_path(str(study.balanced))
    return [f"Best trial of each value of {name}, not corrected: {', '.join(scores)}."]


def _of_evaluation(evaluation: Evaluation) -> str:
    inputs = evaluation.ledger["inputs"]
    key = "adapted" if evaluation.ledger.get("adapted") else "zero_shot"
    numbers, baseline = evaluation.ledger[key], evaluation.ledger.get("zero_shot")
    side = inputs.get("side", inputs["split"])
    names = [inputs["split"], *([side] if side != inputs["split"] else []), inputs["protocol"]]
    score = ranged(numbers["top1"], *numbers["top1_interval"])
    against = f", zero-shot CLIP {baseline['top1']:.2f}" if key == "adapted" and baseline else ""
    of = "" if key == "adapted" else " (zero-shot CLIP)"
    return f"{evaluation.root.name}/ ({', '.join(names)}){_views(evaluation)}: top-1 {score}{of}{against}."


def ranged(value: float, low: float, high: float) -> str:
    """Format a number with two decimals, and its interval if there is one."""
    return f"{value:.2f}" + ("" if is_missing(low) else f" ({low:.2f} to {high:.2f})")


def beyond_zero(value: float, low: float, high: float) -> str:
    """Format a difference whose interval is above zero, such that its lower bound is not shown as zero.

    >>> beyond_zero(0.12, 0.06, 0.18), beyond_zero(0.004, 0.001, 0.007)
    ('0.12 (0.06 to 0.18)', '0.004 (0.001 to 0.007)')
    """
    if low >= 0.005:
        return ranged(value, low, high)
    # Three digits at least, and as many as the first one of the bound that is not zero.
    digits = max(3, math.ceil(-math.log10(low)))
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _signed(gain: Gain) -> str:
    return f"{gain.value:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})"
