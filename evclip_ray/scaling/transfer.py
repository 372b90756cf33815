"""Does the best setting move along the ladder? For each searched setting, where each step has it best.

The best value comes with the values of all trials that it may not be better than: those within one
standard error of the best trial (Breiman's rule). The slope says how a numeric setting moves with
cost: d log10(value) / d log10(cost) for a log-uniform one (0.5: the best learning rate grows as the
square root of the cost), d value / d log10(cost) for others. Its interval is over resampled videos:
each draw may make another trial the best of its step.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from evclip_ray.metrics.intervals import wilson_interval
from evclip_ray.records import LeaderboardRow
from evclip_ray.scaling.bootstrap import (
    RESAMPLES,
    Floats,
    Score,
    how_drawn,
    is_number,
    middle,
    resampled_top1,
)
from evclip_ray.tuning.distributions import Distribution

NEEDED_STEPS = 3
NEEDED_TRIALS = 3
"""Fewer trials of a step say nothing of where its best is."""


@dataclasses.dataclass(frozen=True)
class ScoredTrial:
    """A trial with its score over validation videos; None for a trial without one."""

    row: LeaderboardRow
    score: Score | None


_ValueScore = tuple[Any, Score]


def best_values(step: str, trials: Sequence[ScoredTrial], path: Distribution) -> dict[str, Any]:
    """Where a step has a setting best. `trials`: rows with `score` and `overrides`.

    `low`, `high`: of a number, among the trials within noise of the best; `within_noise`: their values
    in order; `trials`: those that have the setting.
    """
    having = _having(trials, path.path)
    row: dict[str, Any] = {
        "rung": step, "path": path.path, "best": None, "low": None, "high": None,
        "within_noise": "", "trials": len(having), "status": "ok",
    }  # fmt: skip
    if len(having) < NEEDED_TRIALS:
        return {**row, "status": f"too few trials: {len(having)}, {NEEDED_TRIALS} are needed"}
    best_value, score = max(having, key=lambda pair: pair[1].top1)
    floor, _ = wilson_interval(round(score.top1 * score.videos), score.videos, z=1.0)
    near = {value for value, other in having if other.top1 >= floor}
    values = sorted(near, key=lambda value: (str(type(value)), value))
    if _is_numeric(path):
        row |= {"low": min(values), "high": max(values)}
    shown = " ".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in values)
    return {**row, "best": best_value, "within_noise": shown}


def slope(steps: Sequence[tuple[float, Sequence[ScoredTrial]]], path: Distribution) -> dict[str, Any]:
    """How the best value of a setting moves with cost. `rungs`: (cost, trials) of each.

    `status`: "moves" where the 95 % interval leaves out 0, "stays within noise" where not, or why
    there is none.
    """
    record: dict[str, Any] = {"path": path.path, "slope": None, "interval": None, "scale": _scale(path)}
    if not _is_numeric(path):
        return {**record, "status": "not a number: see the best value of each rung"}
    usable = [
        (cost, having)
        for cost, trials in steps
        if is_number(cost) and cost > 0 and len(having := _having(trials, path.path)) >= NEEDED_TRIALS
    ]
    record |= {"rungs": len(usable), "needed_rungs": NEEDED_STEPS}
    if len({cost for cost, _ in usable}) < NEEDED_STEPS:
        return {**record, "status": f"not enough rungs: {len(usable)} with trials, {NEEDED_STEPS} are needed"}
    logs = np.log10([cost for cost, _ in usable])
    scores = [score for _, having in usable for _, score in having]
    best = _drawn_best([having for _, having in usable], scores, path)
    centred = logs - logs.mean()
    # Less the first step's, so that a setting that stays gives 0 and not a rounding error that "moves".
    slopes = (best - best[:, :1]) @ centred / (centred**2).sum()
    low, high = middle(slopes[1:])
    status = "moves" if low > 0 or high < 0 else "stays within noise"
    said = {"interval": [low, high], "intervals": how_drawn(scores), "status": status}
    return {**record, "slope": float(slopes[0]), **said}


def _drawn_best(
    steps: Sequence[Sequence[_ValueScore]], scores: Sequence[Score], path: Distribution
) -> Floats:
    """(1 + RESAMPLES, steps): each step's best trial's value, as measured and then for each draw.

    `scores`: of the trials of all steps, one step after the other.
    """
    draws = np.vstack([[score.top1 for score in scores], resampled_top1(scores)])
    # Ties are broken by chance, or the trial that came first would always be the best.
    draws[1:] += np.random.default_rng(0).uniform(0, 1e-9, (RESAMPLES, len(scores)))
    ends = np.cumsum([len(trials) for trials in steps])
    of_steps = np.split(draws, ends[:-1], axis=1)
    return np.stack(
        [_values(trials, path)[own.argmax(1)] for trials, own in zip(steps, of_steps, strict=True)], axis=1
    )


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
