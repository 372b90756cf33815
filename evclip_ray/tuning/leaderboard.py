"""Leaderboard of a study: one row per trial, best first.

Trials are ordered by the mean of their point over its seeds. One lucky seed therefore does not beat a point
that is better on average. Every ended trial of a point
counts with its best validation top-1, also one that was stopped early; failed trials have no score. Of equal
means, the point with more seeds comes first, then the one with the lower loss.

The first row also has its score corrected for the choice, see `tuning.choice`.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evclip_ray.artifacts import format_csv
from evclip_ray.metrics.intervals import mean_over_seeds
from evclip_ray.records import METRICS, SPEED, LeaderboardRow, TrialRecord, TrialState
from evclip_ray.tuning.choice import correction, interval_of
from evclip_ray.tuning.search_space import without_seed

SCORES = (
    "val_top1",
    "val_top1_low",
    "val_top1_high",
    "val_top5",
    "val_loss",
    "last_top1",
    "point_top1",
    "point_top1_low",
    "point_top1_high",
    "corrected_top1",
    "corrected_top1_low",
    "corrected_top1_high",
)
"""Columns that are empty for a trial without a finished epoch. Its row has zeros there to be ranked last."""
_OWN_COLUMNS = {field.name for field in dataclasses.fields(LeaderboardRow)}


def leaderboard(trials: Iterable[TrialRecord]) -> list[LeaderboardRow]:
    """Return one row per trial, by the mean top-1 and seeds of its point, then its own top-1 and loss."""
    by_name = {trial.trial: trial for trial in trials}
    points: dict[str, list[LeaderboardRow]] = {}
    for trial in by_name.values():
        points.setdefault(_point(trial.overrides), []).append(_row(trial))
    best_loss = {row.trial: min(r.val_loss for r in rows) for rows in points.values() for row in rows}
    ranked = sorted(
        (row for rows in points.values() for row in _with_mean(rows)),
        # Means of whole points first, so the rows of one point stay together. The name makes the order
        # unique.
        key=lambda row: (
            -row.point_top1,
            -row.point_seeds,
            best_loss[row.trial],
            -row.val_top1,
            row.val_loss,
            row.trial,
        ),
    )
    rows = [dataclasses.replace(row, rank=rank) for rank, row in enumerate(ranked, start=1)]
    scored = [row for row in rows if row.best_epoch]
    # A point whose trials failed after an epoch can be first without a score of its own.
    if scored and rows[0] is scored[0]:
        chosen_from = [by_name[row.trial] for row in scored]
        of_choice = correction(chosen_from, [_point(row.overrides) for row in scored], best=0)
        rows[0] = dataclasses.replace(rows[0], **of_choice)
    return rows


def _point(overrides: Mapping[str, Any]) -> str:
    """Return the name of a point: its settings without the seed."""
    # Sorted keys: the order in which settings were drawn must not split a point.
    return json.dumps(without_seed(overrides), sort_keys=True)


def _with_mean(rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
    """Return the rows of one point with the mean over its seeds and the 95 % t interval, NaN for one seed."""
    # While no trial of the point has ended, the best running one represents it, so that the table is not
    # empty.
    scores = [row.val_top1 for row in rows if row.state.has_final_score]
    over_seeds = mean_over_seeds(
        scores or [max(row.val_top1 for row in rows)], videos=max(row.val_videos for row in rows)
    )
    low, high = over_seeds.interval or (math.nan, math.nan)
    return [
        dataclasses.replace(
            row,
            point_seeds=len(scores),
            point_top1=over_seeds.mean,
            point_top1_low=low,
            point_top1_high=high,
        )
        for row in rows
    ]


def _row(trial: TrialRecord) -> LeaderboardRow:
    best, last = trial.best, trial.last
    top1 = best.number("val_top1", 0.0)
    loss = best.number("val_loss", math.inf)
    low, high = interval_of(trial)
    train_videos = last.values.get("train_videos")
    extra = [metric for metric in METRICS.values() if metric.column and metric.column not in _OWN_COLUMNS]
    return LeaderboardRow(
        trial=trial.trial,
        overrides=dict(trial.overrides),
        state=trial.state,
        error=trial.error,
        val_top1=top1,
        val_top1_low=low,
        val_top1_high=high,
        zero_shot_top1=last.values.get("zero_shot_top1", math.nan),
        val_top5=best.number("val_top5", 0.0),
        val_loss=math.inf if math.isnan(loss) else loss,
        best_epoch=best.epoch,
        epochs=last.epoch,
        last_top1=last.number("val_top1", 0.0),
        leaking_rows=last.values.get("leaking_rows", 0),
        train_seconds=round(sum(epoch.number("train_seconds", 0.0) for epoch in trial.history), 3),
        seconds=round(sum(epoch["seconds"] for epoch in trial.history), 3),
        # Epochs of earlier versions do not name their selection, which was always the validation split.
        selection=str(last.values.get("selection", "validation")) if trial.history else "",
        train_videos=train_videos,
        val_videos=last.val_videos,
        val_per_train=last.val_videos / train_videos if train_videos else math.nan,
        conditions=str(last.values.get("conditions", "")),
        extra={
            metric.column: _median(trial, metric.name) if metric.name in SPEED else best.number(metric.name)
            for metric in extra
        },
    )


def _median(trial: TrialRecord, name: str) -> float:
    """Return the median of a metric over the epochs that have it; NaN if none does."""
    values = [value for epoch in trial.history if not math.isnan(value := epoch.number(name))]
    return statistics.median(values) if values else math.nan


def best_of_each(rows: Sequence[LeaderboardRow], path: str) -> list[dict[str, Any]]:
    """Return one row per value of a setting, the best first: number of trials, and its best trial.

    Args:
        rows: Rows of the leaderboard, best first.
        path: Dotted path of the setting.
    """
    of_value: dict[Any, list[LeaderboardRow]] = {}
    for row in rows:
        of_value.setdefault(row.overrides.get(path), []).append(row)
    scores = ("val_top1", "val_top1_low", "val_top1_high")
    return [
        {
            path: value,
            "trials": len(trials),
            "failed": sum(row.state is TrialState.FAILED for row in trials),
            "best_trial": trials[0].trial,
            # A trial without a finished epoch has no score.
            **{name: getattr(trials[0], name) if trials[0].best_epoch else math.nan for name in scores},
        }
        for value, trials in of_value.items()
    ]


def as_csv(rows: Sequence[LeaderboardRow]) -> str:
    """Format the rows as CSV: one column per metric, then one per searched setting."""
    searched = sorted({path for row in rows for path in row.overrides})

    def cells(row: LeaderboardRow) -> list[Any]:
        columns = row.columns()
        if not row.best_epoch:
            columns |= dict.fromkeys(SCORES)
        return [*columns.values(), *(row.overrides.get(path) for path in searched), row.error]

    return format_csv([*rows[0].columns(), *searched, "error"], map(cells, rows), digits=6)
