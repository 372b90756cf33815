"""Best value of each searched setting per step of a ladder, and its slope over cost.

The best value is listed with the values of all trials within one standard error of the best trial (the
one-standard-error rule of Breiman et al. 1984). The slope of a numeric setting is

    d log10(value) / d log10(cost)    for a log-uniform setting
    d value / d log10(cost)           for other numeric settings

A slope of 0.5 means that the best learning rate grows as the square root of the cost.

The interval of the slope is over resampled videos and resampled trials. Each draw takes n of the n trials of
a step with replacement, and the best of them on the drawn videos. Videos alone give the uncertainty of the
scores, but another search draws other points. `benchmarks/noise.py` simulates how often "moves" is wrong.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evclip_ray.metrics.intervals import wilson_interval
from evclip_ray.records import LeaderboardRow
from evclip_ray.scaling.bootstrap import (
    RESAMPLES,
    Floats,
    Score,
    effective_number,
    how_drawn,
    is_number,
    middle,
    resampled_top1,
)
from evclip_ray.tuning.distributions import Distribution

NEEDED_STEPS = 3
NEEDED_TRIALS = 3
"""Minimum number of trials of a step in the table: fewer do not locate the best value."""
NEEDED_FOR_SLOPE = 4
"""Minimum number of trials of a step for a slope. With 3, "moves" is wrong in up to 11 % of the cases."""


@dataclasses.dataclass(frozen=True)
class ScoredTrial:
    """A trial with its score over validation videos; None for a trial without one."""

    row: LeaderboardRow
    score: Score | None


_ValueScore = tuple[Any, Score]


def best_values(step: str, trials: Sequence[ScoredTrial], path: Distribution) -> dict[str, Any]:
    """Return the row of transfer.csv for one step and setting.

    `low` and `high` bound a numeric setting among the trials within noise of the best; `within_noise` lists
    their values; `trials` counts the trials that have the setting.

    Args:
        step: Name of the step.
        trials: Trials of the step.
        path: The setting.
    """
    having = _having(trials, path.path)
    row: dict[str, Any] = {
        "rung": step,
        "path": path.path,
        "best": None,
        "low": None,
        "high": None,
        "within_noise": "",
        "trials": len(having),
        "status": "ok",
    }
    if len(having) < NEEDED_TRIALS:
        return {**row, "status": f"too few trials: {len(having)}, {NEEDED_TRIALS} are needed"}
    best_value, score = max(having, key=lambda pair: pair[1].top1)
    # z = 1 is one standard error: values whose trials reach the bound are indistinguishable from the best.
    count = effective_number(score)
    lower_bound, _ = wilson_interval(score.top1 * count, count, z=1.0)
    near = {value for value, other in having if other.top1 >= lower_bound}
    # Choices may mix types, which Python cannot compare: the type's name sorts first.
    values = sorted(near, key=lambda value: (str(type(value)), value))
    if _is_numeric(path):
        row |= {"low": min(values), "high": max(values)}
    shown = " ".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in values)
    return {**row, "best": best_value, "within_noise": shown}


def slope(steps: Sequence[tuple[float, Sequence[ScoredTrial]]], path: Distribution) -> dict[str, Any]:
    """Return how the best value of a setting changes with cost.

    Args:
        steps: Cost and trials of each step.
        path: The setting.

    Returns:
        The record of fits.json. `status` is "moves" if the 95 % interval excludes 0, "stays within noise" if
        it includes 0, or the reason for no slope.
    """
    record: dict[str, Any] = {"path": path.path, "slope": None, "interval": None, "scale": _scale(path)}
    if not _is_numeric(path):
        return {**record, "status": "not a number: see the best value of each step"}
    usable = [
        (cost, having)
        for cost, trials in steps
        if is_number(cost) and cost > 0 and len(having := _having(trials, path.path)) >= NEEDED_FOR_SLOPE
    ]
    record |= {"rungs": len(usable), "needed_rungs": NEEDED_STEPS}
    if len({cost for cost, _ in usable}) < NEEDED_STEPS:
        return {
            **record,
            "status": f"not enough steps: {len(usable)} with at least {NEEDED_FOR_SLOPE} trials, "
            f"{NEEDED_STEPS} are needed",
        }
    logs = np.log10([cost for cost, _ in usable])
    scores = [score for _, having in usable for _, score in having]
    # (1 + RESAMPLES, steps): row 0 is the measurement.
    best = _drawn_best([having for _, having in usable], scores, path)
    centred = logs - logs.mean()
    # Values relative to the first step: a constant setting then has slope 0 exactly, without rounding error.
    slopes = (best - best[:, :1]) @ centred / (centred**2).sum()
    # Row 0 is left out of the interval: it is the measurement, not a draw.
    low, high = middle(slopes[1:])
    status = "moves" if low > 0 or high < 0 else "stays within noise"
    interval = {"interval": [low, high], "intervals": how_drawn(scores), "status": status}
    return {**record, "slope": float(slopes[0]), **interval}


def _drawn_best(
    steps: Sequence[Sequence[_ValueScore]], scores: Sequence[Score], path: Distribution
) -> Floats:
    """Return the value of the best trial of each step, as measured and for each draw, (1 + RESAMPLES, steps).

    Args:
        steps: Trials of each step.
        scores: Scores of the trials of all steps, concatenated.
        path: The setting.
    """
    rng = np.random.default_rng(0)
    draws = np.vstack([[score.top1 for score in scores], resampled_top1(scores)])
    # Ties are broken at random: argmax would always choose the first trial.
    draws[1:] += rng.uniform(0, 1e-9, (RESAMPLES, len(scores)))
    # The columns of `draws` are the trials of all steps in order; they are split into one block per step.
    ends = np.cumsum([len(trials) for trials in steps])
    of_steps = np.split(draws, ends[:-1], axis=1)
    for top1 in of_steps:
        # A trial that the draw does not contain cannot be its best. Repeated trials do not change the best.
        top1[1:][~_drawn_trials(top1.shape[1], rng)] = -1
    return np.stack(
        [_values(trials, path)[top1.argmax(1)] for trials, top1 in zip(steps, of_steps, strict=True)], axis=1
    )


def _drawn_trials(count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which of n trials are among n draws with replacement, (RESAMPLES, n)."""
    drawn = np.zeros((RESAMPLES, count), np.bool_)
    drawn[np.arange(RESAMPLES)[:, None], rng.integers(count, size=(RESAMPLES, count))] = True
    return drawn


def _values(trials: Sequence[_ValueScore], path: Distribution) -> Floats:
    values = np.array([float(value) for value, _ in trials])
    return np.log10(values) if path.kind == "loguniform" else values


def _having(trials: Sequence[ScoredTrial], path: str) -> list[_ValueScore]:
    """Return value and score of the trials that have the setting and a score."""
    return [
        (trial.row.overrides[path], trial.score)
        for trial in trials
        if path in trial.row.overrides and trial.score is not None
    ]


def _is_numeric(path: Distribution) -> bool:
    return all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in path.values
    )


def _scale(path: Distribution) -> str:
    return "log10(value) per log10(cost)" if path.kind == "loguniform" else "value per log10(cost)"
