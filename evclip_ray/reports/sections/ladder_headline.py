"""Headline of a ladder's report: the best step, and whether accuracy rises from the first to the last."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evclip_ray.formatting import counted, is_missing
from evclip_ray.reports.charts import ladder_data
from evclip_ray.reports.document import Headline
from evclip_ray.reports.sections.headline import beyond_zero, random_note, random_parts, ranged
from evclip_ray.results import STEPS, Ladder
from evclip_ray.scaling.bootstrap import Score, interval_of_difference
from evclip_ray.scaling.tables import with_scores
from evclip_ray.tuning.study_folder import StudyFolder

TOO_FEW = "not enough steps"
"""Beginning of the status of a fit or trend that needs more steps."""


@dataclasses.dataclass(frozen=True)
class Climb:
    """Change of top-1 from the first scored step to the last, with its 95 % interval.

    Attributes:
        first: Name of the first step.
        last: Name of the last step.
        value: Top-1 of the last step minus that of the first.
        low: Lower bound; NaN if unknown.
        high: Upper bound.
    """

    first: str
    last: str
    value: float
    low: float
    high: float

    @property
    def estimate(self) -> tuple[float, float, float]:
        """The change and its bounds."""
        return self.value, self.low, self.high


def ladder_headline(ladder: Ladder) -> Headline:
    """Return the headline of a ladder."""
    steps, scored = ladder.table("ladder"), ladder_data.scored_steps(ladder)
    best, num_steps = ladder.best, max(len(steps), len(ladder.steps))
    if scored.empty or best is None:
        return Headline(no_step(steps))
    random = sorted({part for study in ladder.steps.values() for part in random_parts(study)})
    studies = [study.best for study in ladder.steps.values()]
    leaks = any(row["leaking_rows"] for row in studies if row is not None)
    climbed = climb(ladder, scored)
    text = sentence(best, num_steps, len(scored), climbed, is_judged=not random and not leaks)
    if not set(steps["state"]) <= {"finished", "failed"}:
        text = f"So far: {text}"
    if leaks:
        text += " Leaks between the splits make these numbers too high."
    if random:
        text = f"{random_note(random)} {text}"
    return Headline(text, [*_of_zero_shot(scored), *too_few_steps(ladder)])


def sentence(
    best: Mapping[str, Any],
    num_steps: int,
    num_scored: int,
    climbed: Climb | None,
    *,
    is_judged: bool = True,
) -> str:
    """Return the sentence of a ladder.

    Args:
        best: Row of the best trial of all steps.
        num_steps: Number of steps.
        num_scored: Number of those that have a score.
        climbed: Change over the steps; None if only one has a score.
        is_judged: Whether to state if a change is beyond chance. With random weights or leaks it means
            nothing.
    """
    column = "val_top1" if is_missing(best.get("corrected_top1")) else "corrected_top1"
    score = f"top-1 {ranged(*(best[f'{column}{end}'] for end in ('', '_low', '_high')))} on validation"
    score += ", corrected for the choice among its trials" if column == "corrected_top1" else ""
    if climbed is None and num_steps == 1:
        return f"The only step, {best['rung']}, has {score}. A ladder compares at least two steps."
    if climbed is None:
        text = f"Only {best['rung']} of {counted(num_steps, 'step')} has a score, {score}"
        return f"{text}: whether accuracy rises is not known yet."
    of = (
        f"Of {counted(num_scored, 'scored step')} among {num_steps}"
        if num_scored < num_steps
        else f"Of {counted(num_steps, 'step')}"
    )
    return f"{of}, {best['rung']} is the best, with {score}; {change(climbed, is_judged=is_judged)}."


def change(climbed: Climb, *, is_judged: bool = True) -> str:
    """Return how top-1 changes over the steps, and, if `is_judged`, whether that is beyond chance."""
    steps, value, low, high = (
        f"from {climbed.first} to {climbed.last}",
        climbed.value,
        climbed.low,
        climbed.high,
    )
    if is_missing(low):
        return f"{steps}, top-1 changes by {value:+.2f}, with an unknown interval"
    signed = f"{value:+.2f} ({low:+.2f} to {high:+.2f})"
    if not is_judged:
        return f"{steps}, top-1 changes by {signed}"
    if low > 0:
        return f"{steps}, top-1 rises by {beyond_zero(value, low, high)}, which is beyond chance"
    if high < 0:
        return f"{steps}, top-1 falls by {beyond_zero(-value, -high, -low)}, which is beyond chance"
    return f"{steps}, top-1 changes by {signed}, which cannot be told from chance"


def climb(ladder: Ladder, scored: pd.DataFrame) -> Climb | None:
    """Return the change from the first scored step to the last; None for a single scored step.

    Args:
        ladder: Results.
        scored: Scored rows of ladder.csv, in the order of the steps.
    """
    if len(scored) < 2:
        return None
    first, last = scored.iloc[0], scored.iloc[-1]
    names = (str(first["rung"]), str(last["rung"]))
    if len(scored) == 2 and "gain" in scored and not is_missing(last["gain"]):
        # Its reference is the scored step before it.
        return Climb(*names, *(float(last[name]) for name in ("gain", "gain_low", "gain_high")))
    before, after = (_score(ladder, name) for name in names)
    if before is None or after is None:
        return Climb(*names, float(last["val_top1"] - first["val_top1"]), math.nan, math.nan)
    return Climb(*names, after.top1 - before.top1, *interval_of_difference(before, after))


def _score(ladder: Ladder, step: str) -> Score | None:
    trials = with_scores(StudyFolder(ladder.root / STEPS / step))
    return next((trial.score for trial in trials if trial.score is not None), None)


def no_step(steps: pd.DataFrame) -> str:
    """Return why a ladder has no score.

    Args:
        steps: Rows of ladder.csv; may be empty.
    """
    if steps.empty:
        return "No step has started yet, so there is no result."
    counts = steps["state"].value_counts()
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    return f"No step has a trial with a finished epoch, so there is no result ({states})."


def too_few_steps(ladder: Ladder) -> list[str]:
    """Return one line about the fits and trends that need more steps; empty if there are none."""
    accuracy: Sequence[Mapping[str, Any]] = ladder.fits.get("accuracy", [])
    slopes: Sequence[Mapping[str, Any]] = ladder.fits.get("transfer", {}).get("slopes", [])
    curves, trends = (
        [fit for fit in fits if str(fit["status"]).startswith(TOO_FEW)] for fits in (accuracy, slopes)
    )
    parts = []
    if curves:
        which = "curves" if len(curves) == len(accuracy) else f"{len(curves)} of {len(accuracy)} curves"
        parts.append(f"{which} of accuracy over cost ({_needed(curves)})")
    if trends:
        which = "trends" if len(trends) == len(slopes) else f"{len(trends)} of {len(slopes)} trends"
        parts.append(f"{which} of the best settings ({_needed(trends)})")
    return [f"There are {TOO_FEW} for {' and for '.join(parts)}."] if parts else []


def _needed(fits: Sequence[Mapping[str, Any]]) -> str:
    """Return the number of steps that fits have and need: "3 of different cost, 3 to 4 are needed"."""
    have, need = ([fit[key] for fit in fits if key in fit] for key in ("rungs", "needed_rungs"))
    return f"{_span(have)} usable, {_span(need)} needed"


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return str(low) if low == high else f"{low} to {high}"


def _of_zero_shot(scored: pd.DataFrame) -> list[str]:
    """Return the line about zero-shot CLIP, whose accuracy may rise over the steps as well."""
    if "zero_shot_top1" not in scored:
        return []
    known = scored[pd.to_numeric(scored["zero_shot_top1"], errors="coerce").notna()]
    if known.empty:
        return []
    if known["zero_shot_top1"].nunique() == 1 and len(known) > 1:
        return [f"Zero-shot CLIP on the same videos: {known['zero_shot_top1'].iloc[0]:.2f} at every step."]
    scores = ", ".join(f"{row.rung} {row.zero_shot_top1:.2f}" for row in known.itertuples())
    return [f"Zero-shot CLIP on the same videos: {scores}."]
