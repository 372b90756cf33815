"""The numbers behind the charts of a ladder, apart from drawing."""

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
"""Column of ladder.csv -> how its axis is titled."""
FRONTS = {
    "latency_seconds": "pareto_latency",
    "total_parameters": "pareto_total_parameters",
    "trainable_parameters": "pareto_trainable_parameters",
}
_SCORE = ["rung", "val_top1", "val_top1_low", "val_top1_high", "zero_shot_top1", "val_videos", "trials"]


def scored_steps(ladder: Ladder) -> pd.DataFrame:
    """The rows of ladder.csv that have a score, with their place `step` on the ladder."""
    frame = ladder.table("ladder")
    if frame.empty or "val_top1" not in frame:
        return pd.DataFrame(columns=["step", *_SCORE])
    frame = frame.assign(step=range(len(frame)), rung=frame["rung"].astype(str))
    return frame[pd.to_numeric(frame["val_top1"], errors="coerce").notna()].reset_index(drop=True)


def over_cost(ladder: Ladder, cost: str) -> pd.DataFrame:
    """The scored rungs at one kind of cost, the cheapest first; empty where none has it."""
    frame = scored_steps(ladder)
    if cost not in frame:
        return pd.DataFrame(columns=[*_SCORE, "cost"])
    frame = frame.assign(cost=pd.to_numeric(frame[cost], errors="coerce"))
    kept = [name for name in (*_SCORE, "cost", FRONTS.get(cost, "")) if name in frame]
    frame = frame.loc[frame["cost"] > 0, kept].sort_values("cost").reset_index(drop=True)
    return frame.assign(place=frame.index)


def costs_that_differ(ladder: Ladder) -> list[str]:
    """The kinds of cost in which the scored rungs differ, or all known ones of a single rung."""
    counts = {cost: over_cost(ladder, cost)["cost"].nunique() for cost in COSTS}
    return [cost for cost, count in counts.items() if count > 1 or (count == 1 and max(counts.values()) == 1)]


def fitted_curves(ladder: Ladder, cost: str) -> pd.DataFrame:
    """The fitted curves over a cost: rows of form, cost, top1, low, high."""
    rows = [
        {"form": fit["form"].replace("_", " "), **point}
        for fit in ladder.fits.get("accuracy", [])
        if fit["cost"] == cost and fit["status"] == "fitted"
        for point in fit["curve"]
    ]
    return pd.DataFrame(rows, columns=["form", "cost", "top1", "low", "high"])


def fits_table(ladder: Ladder) -> pd.DataFrame:
    """A row a fit: its parameters with intervals, or why there is none."""
    rows = [
        {
            "over": COSTS.get(fit["cost"], fit["cost"]), "form": fit["formula"], "rungs": fit["rungs"],
            "status": fit["status"], "parameters": _parameters(fit), "error_in_top1": fit.get("rmse"),
            "intervals": fit.get("intervals"), "left_out": ", ".join(fit.get("left_out", [])),
        }
        for fit in ladder.fits.get("accuracy", [])
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _parameters(fit: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {found['value']:.3g} ({found['interval'][0]:.3g} to {found['interval'][1]:.3g})"
        for name, found in fit.get("parameters", {}).items()
    )


def slopes_table(ladder: Ladder) -> pd.DataFrame:
    """A row a searched setting: how its best value moves along the ladder, or why that is not known."""
    transfer = ladder.fits.get("transfer", {})
    rows = []
    for found in transfer.get("slopes", []):
        low, high = found.get("interval") or (None, None)
        rows.append(
            {"path": found["path"], "slope": found.get("slope"), "low": low, "high": high,
             "scale": found.get("scale"), "over": transfer.get("cost"), "status": found["status"],
             "intervals": found.get("intervals")}
        )  # fmt: skip
    return pd.DataFrame(rows)


def transfer(ladder: Ladder, path: str) -> pd.DataFrame:
    """Where each rung has a setting best; `low`, `high` among the trials within noise of the best."""
    frame = ladder.table("transfer")
    frame = frame[(frame["path"] == path) & frame["best"].notna()]
    return frame.assign(rung=frame["rung"].astype(str)).reset_index(drop=True)


def importance(ladder: Ladder) -> pd.DataFrame:
    """A row a rung and searched setting that has an importance."""
    frame = ladder.table("importance")
    if frame.empty:
        return frame
    frame = frame.assign(rung=frame["rung"].astype(str))
    return frame[frame["importance"].notna()].reset_index(drop=True)


def gmac_by_part(ladder: Ladder) -> pd.DataFrame:
    """What each part of the networks costs for a video, by rung."""
    frame = ladder.table("costs")
    if frame.empty:
        return frame
    frame = frame[frame["quantity"] == "inference_gmac"]
    return frame.assign(rung=frame["rung"].astype(str), gmac=frame["value"])[["rung", "part", "gmac"]]


def all_trials(ladder: Ladder) -> pd.DataFrame:
    """Every scored trial of every rung."""
    frame = ladder.trials
    if frame.empty or "val_top1" not in frame:
        return pd.DataFrame(columns=["rung", "trial", "state", "val_top1", "settings"])
    frame = frame[frame["val_top1"].notna()]
    return frame[["rung", "trial", "state", "val_top1", "val_loss", "settings"]].reset_index(drop=True)
