"""A row a trial, best first: what a study found, and how sure of it one may be.

A point that was run with several seeds is judged by the mean over them: trials are ordered by their
point's mean, so that one lucky seed does not beat a point that is better on the whole. Every ended
trial of a point counts with its best validation top-1, also one that was stopped early; only failed
ones have none. Between equal means the point with more seeds comes first, then the lower loss.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evclip_ray.metrics.intervals import mean_over_seeds, wilson_interval
from evclip_ray.tuning.search_space import without_seed

MEASURED = ("complete", "stopped", "diverged")
"""States of a trial whose score is final."""
SCORES = (
    "val_top1", "val_top1_low", "val_top1_high", "val_top5", "val_loss", "last_top1",
    "point_top1", "point_top1_low", "point_top1_high",
)  # fmt: skip
"""What a trial without a finished epoch has none of: its row is ordered as if they were 0, not shown so."""
_NONE = (math.nan, math.nan)


def leaderboard(trials: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a trial, best first: point's mean top-1, seeds, then its own top-1 and loss."""
    rows = [_row(trial) for trial in trials]
    points: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        points.setdefault(json.dumps(without_seed(row["overrides"]), sort_keys=True), []).append(row)
    for same in points.values():
        summary = _over_seeds(same)
        for row in same:
            row.update(summary)
    best_loss = {id(row): min(r["val_loss"] for r in same) for same in points.values() for row in same}
    rows.sort(
        key=lambda row: (
            -row["point_top1"], -row["point_seeds"], best_loss[id(row)],
            -row["val_top1"], row["val_loss"], row["trial"],
        )
    )  # fmt: skip
    for rank, row in enumerate(rows, start=1):
        row["rank"] = rank
    return rows


def _over_seeds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over the seeds of one point with its 95 % t interval, NaN for a single seed."""
    ended = [row["val_top1"] for row in rows if row["state"] in MEASURED]
    found = mean_over_seeds(ended or [max(row["val_top1"] for row in rows)])
    low, high = (max(0.0, found.interval[0]), min(1.0, found.interval[1])) if found.interval else _NONE
    return {
        "point_seeds": len(ended),
        "point_top1": found.mean,
        "point_top1_low": low,
        "point_top1_high": high,
    }


def _row(trial: Mapping[str, Any]) -> dict[str, Any]:
    history = trial["history"]
    last = history[-1] if history else {}
    best = _best_epoch(history)
    top1, videos = best.get("val_top1", 0.0), last.get("val_videos", 0)
    loss = best.get("val_loss", math.inf)
    low, high = wilson_interval(round(top1 * videos), videos)
    return {
        "rank": 0,
        "trial": trial["trial"],
        "state": trial["state"],
        "val_top1": top1,
        "val_top1_low": low,
        "val_top1_high": high,
        "zero_shot_top1": last.get("zero_shot_top1", math.nan),
        "val_top5": best.get("val_top5", 0.0),
        "val_loss": math.inf if math.isnan(loss) else loss,
        "best_epoch": best.get("epoch", 0),
        "epochs": last.get("epoch", 0),
        "last_top1": last.get("val_top1", 0.0),
        "leaking_rows": last.get("leaking_rows", 0),
        "train_seconds": round(sum(row.get("train_seconds", 0.0) for row in history), 3),
        "seconds": round(sum(row["seconds"] for row in history), 3),
        "overrides": dict(trial["overrides"]),
        "error": trial["error"],
    }


def _best_epoch(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The record of the best epoch; empty where none is finished, or its score is no number."""
    number = history[-1].get("best_epoch") if history else None
    best = history[number - 1] if number else {}
    return best if math.isfinite(best.get("val_top1", math.nan)) else {}


def as_csv(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV: a column a number, then one a searched setting; what there is not is empty."""
    searched = sorted({path for row in rows for path in row["overrides"]})
    columns = [c for c in rows[0] if c not in {"overrides", "error"}]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *searched, "error"])
    for row in rows:
        writer.writerow(
            ["" if c in SCORES and not row["best_epoch"] else _cell(row[c]) for c in columns]
            + [_cell(row["overrides"].get(path, "")) for path in searched]
            + [row["error"] or ""]
        )
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
