"""Tables behind the charts of a ladder."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from evclip_ray.results import Ladder

COSTS = {
    "inference_gmac": "GMAC of one video",
    "latency_seconds": "latency of one video, s",
    "total_parameters": "parameters, frozen and trained",
    "trainable_parameters": "trained parameters",
    "train_videos": "training videos",
}
"""Titles of axes by column of ladder.csv."""

FRONTS = {
    "latency_seconds": "pareto_latency",
    "total_parameters": "pareto_total_parameters",
    "trainable_parameters": "pareto_trainable_parameters",
}
"""Columns of ladder.csv that mark the Pareto front, by column of the cost."""

_SCORE = ["rung", "val_top1", "val_top1_low", "val_top1_high", "zero_shot_top1", "val_videos", "trials"]


def scored_steps(ladder: Ladder) -> pd.DataFrame:
    """Return the rows of ladder.csv that have a score, with their position `step` on the ladder."""
    steps = ladder.table("ladder")
    if steps.empty or "val_top1" not in steps:
        return pd.DataFrame(columns=["step", *_SCORE])
    steps = steps.assign(step=range(len(steps)), rung=steps["rung"].astype(str))
    return steps[pd.to_numeric(steps["val_top1"], errors="coerce").notna()].reset_index(drop=True)


def over_cost(ladder: Ladder, cost: str) -> pd.DataFrame:
    """Return the scored steps with one kind of `cost`, the cheapest first; empty where none has it."""
    steps = scored_steps(ladder)
    if cost not in steps:
        return pd.DataFrame(columns=[*_SCORE, "cost"])
    steps = steps.assign(cost=pd.to_numeric(steps[cost], errors="coerce"))
    columns = [name for name in (*_SCORE, "cost", FRONTS.get(cost, "")) if name in steps]
    steps = steps.loc[steps["cost"] > 0, columns].sort_values("cost").reset_index(drop=True)
    return steps.assign(place=steps.index)


def costs_that_differ(ladder: Ladder) -> list[str]:
    """Return the kinds of cost in which the scored steps differ, or all known ones of a single step."""
    counts = {cost: over_cost(ladder, cost)["cost"].nunique() for cost in COSTS}
    return [cost for cost, count in counts.items() if count > 1 or (count == 1 and max(counts.values()) == 1)]


def fitted_curves(ladder: Ladder, cost: str) -> pd.DataFrame:
    """Return the fitted curves over a cost as rows of form, cost, top1, low, high."""
    rows = [
        {"form": fit["form"].replace("_", " "), **point}
        for fit in ladder.fits.get("accuracy", [])
        if fit["cost"] == cost and fit["status"] == "fitted"
        for point in fit["curve"]
    ]
    return pd.DataFrame(rows, columns=["form", "cost", "top1", "low", "high"])


def fits_table(ladder: Ladder) -> pd.DataFrame:
    """Return one row per fit: its parameters with intervals, or the reason why there is none."""
    rows = [
        {
            "over": COSTS.get(fit["cost"], fit["cost"]),
            "form": fit["formula"],
            "rungs": fit["rungs"],
            "status": fit["status"],
            "parameters": _parameters(fit),
            "error_in_top1": fit.get("rmse"),
            "intervals": fit.get("intervals"),
            "left_out": ", ".join(fit.get("left_out", [])),
        }
        for fit in ladder.fits.get("accuracy", [])
    ]
    return pd.DataFrame(rows)


def _parameters(fit: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {estimate['value']:.3g} ({estimate['interval'][0]:.3g} to {estimate['interval'][1]:.3g})"
        for name, estimate in fit.get("parameters", {}).items()
    )


def slopes_table(ladder: Ladder) -> pd.DataFrame:
    """Return one row per searched setting: the slope of its best value over cost, or why it is unknown."""
    transfer = ladder.fits.get("transfer", {})
    rows = []
    for slope in transfer.get("slopes", []):
        low, high = slope.get("interval") or (None, None)
        row = {"path": slope["path"], "slope": slope.get("slope"), "low": low, "high": high}
        row |= {"scale": slope.get("scale"), "over": transfer.get("cost"), "status": slope["status"]}
        rows.append({**row, "intervals": slope.get("intervals")})
    return pd.DataFrame(rows)


def transfer(ladder: Ladder, path: str) -> pd.DataFrame:
    """Return the best value of a setting by step.

    `low` and `high` are the extremes among the trials within noise of the best one.
    """
    best = ladder.table("transfer")
    best = best[(best["path"] == path) & best["best"].notna()]
    return best.assign(rung=best["rung"].astype(str)).reset_index(drop=True)


def importance(ladder: Ladder) -> pd.DataFrame:
    """Return one row per step and searched setting whose importance exceeds that of permuted scores.

    Ladders of earlier versions have no permuted scores; none of their settings is returned.
    """
    shares = ladder.table("importance")
    if shares.empty:
        return shares
    shares = shares.assign(rung=shares["rung"].astype(str))
    if "null" not in shares:
        return shares.head(0)
    return shares[(shares["status"] == "ok") & shares["importance"].notna()].reset_index(drop=True)


def gmac_by_part(ladder: Ladder) -> pd.DataFrame:
    """Return the GMAC of one video by step and part of the networks."""
    costs = ladder.table("costs")
    if costs.empty:
        return costs
    costs = costs[costs["quantity"] == "inference_gmac"]
    return costs.assign(rung=costs["rung"].astype(str), gmac=costs["value"])[["rung", "part", "gmac"]]


def all_trials(ladder: Ladder) -> pd.DataFrame:
    """Return the scored trials of all steps."""
    trials = ladder.trials
    if trials.empty or "val_top1" not in trials:
        return pd.DataFrame(columns=["rung", "trial", "state", "val_top1", "settings"])
    scored = trials[trials["val_top1"].notna()]
    return scored[["rung", "trial", "state", "val_top1", "val_loss", "settings"]].reset_index(drop=True)
