"""Does the best setting move along the ladder? For each searched setting, where each rung has it best.

The best value comes with the values of all trials that it may not be better than: those within one
standard error of the best trial (Breiman's rule). The slope says how a numeric setting moves with
cost: d log10(value) / d log10(cost) for a log-uniform one (0.5: the best learning rate grows as the
square root of the cost), d value / d log10(cost) for others. Its interval is over resampled videos:
each draw may make another trial the best of its rung.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evclip_ray.evaluation.intervals import wilson_interval
from evclip_ray.scaling.resample import RESAMPLES, Floats, is_number, middle, resampled_top1
from evclip_ray.tuning.distributions import Distribution

NEEDED_RUNGS = 3
NEEDED_TRIALS = 3
"""Fewer trials of a rung say nothing of where its best is."""


def best_values(rung: str, trials: Sequence[Mapping[str, Any]], path: Distribution) -> dict[str, Any]:
    """Where a rung has a setting best. `trials`: rows with `val_top1`, `val_videos`, `overrides`.

    `low`, `high`: of a number, among the trials within noise of the best; `within_noise`: their values
    in order; `trials`: those that have the setting.
    """
    having = _having(trials, path.path)
    row: dict[str, Any] = {
        "rung": rung, "path": path.path, "best": None, "low": None, "high": None,
        "within_noise": "", "trials": len(having), "status": "ok",
    }  # fmt: skip
    if len(having) < NEEDED_TRIALS:
        return {**row, "status": f"too few trials: {len(having)}, {NEEDED_TRIALS} are needed"}
    best = max(having, key=lambda trial: trial["val_top1"])
    videos = best["val_videos"]
    floor, _ = wilson_interval(round(best["val_top1"] * videos), videos, z=1.0)
    near = {trial["overrides"][path.path] for trial in having if trial["val_top1"] >= floor}
    values = sorted(near, key=lambda value: (str(type(value)), value))
    if _is_numeric(path):
        row |= {"low": min(values), "high": max(values)}
    shown = " ".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in values)
    return {**row, "best": best["overrides"][path.path], "within_noise": shown}


def slope(rungs: Sequence[tuple[float, Sequence[Mapping[str, Any]]]], path: Distribution) -> dict[str, Any]:
    """How the best value of a setting moves with cost. `rungs`: (cost, trials) of each.

    `status`: "moves" where the 95 % interval leaves out 0, "stays within noise" where not, or why
    there is none.
    """
    record: dict[str, Any] = {"path": path.path, "slope": None, "interval": None, "scale": _scale(path)}
    if not _is_numeric(path):
        return {**record, "status": "not a number: see the best value of each rung"}
    usable = [
        (cost, having)
        for cost, trials in rungs
        if is_number(cost) and cost > 0 and len(having := _having(trials, path.path)) >= NEEDED_TRIALS
    ]
    record |= {"rungs": len(usable), "needed_rungs": NEEDED_RUNGS}
    if len({cost for cost, _ in usable}) < NEEDED_RUNGS:
        return {**record, "status": f"not enough rungs: {len(usable)} with trials, {NEEDED_RUNGS} are needed"}
    logs = np.log10([cost for cost, _ in usable])
    best = np.stack([_drawn_best(having, path, seed) for seed, (_, having) in enumerate(usable)], axis=1)
    centred = logs - logs.mean()
    # Less the first rung's, so that a setting that stays gives 0 and not a rounding error that "moves".
    slopes = (best - best[:, :1]) @ centred / (centred**2).sum()
    low, high = middle(slopes[1:])
    status = "moves" if low > 0 or high < 0 else "stays within noise"
    return {**record, "slope": float(slopes[0]), "interval": [low, high], "status": status}


def _drawn_best(trials: Sequence[Mapping[str, Any]], path: Distribution, seed: int) -> Floats:
    """(1 + RESAMPLES,): the best trial's value, as measured and then for each draw of the videos."""
    values = np.array([float(trial["overrides"][path.path]) for trial in trials])
    if path.kind == "loguniform":
        values = np.log10(values)
    top1 = np.array([float(trial["val_top1"]) for trial in trials])
    draws = resampled_top1(top1, np.array([trial["val_videos"] for trial in trials]), seed=seed)
    # Ties are broken by chance, or the trial that came first would always be the best.
    ties = np.random.default_rng(seed).uniform(0, 1e-9, draws.shape)
    chosen = np.concatenate([[top1.argmax()], (draws + ties).argmax(1)])
    assert len(chosen) == 1 + RESAMPLES
    drawn: Floats = values[chosen]
    return drawn


def _having(trials: Sequence[Mapping[str, Any]], path: str) -> list[Mapping[str, Any]]:
    return [
        trial
        for trial in trials
        if path in trial["overrides"] and is_number(trial["val_top1"]) and trial["val_videos"] > 0
    ]


def _is_numeric(path: Distribution) -> bool:
    return all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in path.values
    )


def _scale(path: Distribution) -> str:
    return "log10(value) per log10(cost)" if path.kind == "loguniform" else "value per log10(cost)"
