"""The tables of a ladder, made from its rungs' studies. Selection is on validation; test is not read.

A rung stands for its best trial: the first of its leaderboard that has a score. Its interval over
the validation videos is Wilson's, as on every leaderboard; `bootstrap_low`, `bootstrap_high` come
from resampling the videos, as the intervals of the fits and of the gains over the rung before do.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evclip_ray.artifacts import write_json
from evclip_ray.scaling.bootstrap import Score, how_drawn, is_number, middle, resampled_top1
from evclip_ray.scaling.fit import fit_costs
from evclip_ray.scaling.ladder_folder import LadderFolder
from evclip_ray.scaling.ladder_steps import Ladder, Rung
from evclip_ray.scaling.pareto import FRONTS, mark_fronts
from evclip_ray.scaling.step_costs import (
    COST_COLUMNS,
    COUNTED,
    MEASURED_STEPS,
    cost_columns,
    cost_of,
    cost_rows,
)
from evclip_ray.scaling.transfer import best_values, slope
from evclip_ray.training.checkpoint import CONFIG, latest_checkpoint, read_record
from evclip_ray.training.per_video_scores import VideoScores
from evclip_ray.tuning.importance import parameter_importance
from evclip_ray.tuning.leaderboard import MEASURED, leaderboard
from evclip_ray.tuning.study_folder import StudyFolder

COSTS = ("inference_gmac", "total_parameters", "trainable_parameters", "latency_seconds", "train_videos")
"""What accuracy is drawn over. Settings are said to move with the first in which the rungs differ."""
_SCORES = (
    "trials", "best_trial", "val_top1", "val_top1_low", "val_top1_high", "bootstrap_low", "bootstrap_high",
    "val_videos", "zero_shot_top1", "device_seconds", "random_weights",
)  # fmt: skip
_GAIN = ("gain", "gain_low", "gain_high", "gain_interval")
LADDER_COLUMNS = (
    "rung", "state", "error", *_SCORES, *_GAIN, "train_videos", *COUNTED, *MEASURED_STEPS, "measured_batch",
    "measured_on", *FRONTS,
)  # fmt: skip
IMPORTANCE_COLUMNS = ("rung", "path", "importance", "trials", "evaluator", "status")
TRANSFER_COLUMNS = ("rung", "path", "best", "low", "high", "within_noise", "trials", "status")


def trials_of(folder: StudyFolder) -> list[dict[str, Any]]:
    """The leaderboard of a study, with the validation videos that each trial was scored on."""
    trials = list(folder.trials())
    videos = {t["trial"]: (t["history"][-1].get("val_videos", 0) if t["history"] else 0) for t in trials}
    return [{**row, "val_videos": videos[row["trial"]]} for row in leaderboard(trials)]


def with_scores(folder: StudyFolder, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `trials_of`, each with its `score`; None of a trial that has none."""
    return [{**row, "score": _score(folder, row)} for row in rows]


def _score(folder: StudyFolder, row: Mapping[str, Any]) -> Score | None:
    top1, videos = row["val_top1"], row["val_videos"]
    if not row["best_epoch"] or not is_number(top1) or not videos:
        return None
    checkpoint = latest_checkpoint(folder.trial(row["trial"]) / "best")
    each = VideoScores.read(checkpoint) if checkpoint is not None else None
    # A process that was killed between the two may have left a better checkpoint than its history says.
    kept = each is not None and math.isclose(each.right.mean(), top1, abs_tol=0.5 / videos)
    return Score(top1, videos, each if kept else None)


def best_trial(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The first trial of a leaderboard that has a score: not one that failed, or diverged at once."""
    return next((row for row in rows if row["best_epoch"] and is_number(row["val_top1"])), None)


def device_seconds(rows: Sequence[Mapping[str, Any]], devices: float) -> float:
    """What a study's trials took of devices (GPUs where it has them, else CPUs), `devices` a trial."""
    return devices * float(sum(row["seconds"] for row in rows))


def write_tables(folder: LadderFolder, ladder: Ladder, *, measure: bool) -> list[dict[str, Any]]:
    """Write all tables and fits of the rungs so far; returns the rows of ladder.csv."""
    noted = {rung["name"]: rung for rung in folder.ledger().get("rungs", [])}
    studies = {rung.name: StudyFolder(folder.rung(rung.name)) for rung in ladder.rungs}
    trials = {name: with_scores(study, trials_of(study)) for name, study in studies.items()}
    costs = {rung.name: cost_of(folder, rung, measure=measure) for rung in ladder.rungs}
    rows = [
        _row(rung, noted.get(rung.name, {}), trials[rung.name], costs[rung.name]) for rung in ladder.rungs
    ]
    for row in rows:
        row["random_weights"] = _has_random_weights(folder, row["rung"])
    rows = with_gains(mark_fronts(rows))
    folder.write_table("ladder", rows, LADDER_COLUMNS)
    priced = [row for name, cost in costs.items() if cost for row in cost_rows(name, cost)]
    folder.write_table("costs", priced, COST_COLUMNS)
    important = [
        {"rung": rung.name, **row}
        for rung in ladder.rungs
        for row in parameter_importance(rung.space, trials[rung.name])
    ]
    folder.write_table("importance", important, IMPORTANCE_COLUMNS)
    _write_fits(folder, ladder, rows, trials)
    return rows


def with_gains(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each rung's `gain`: its top-1 less that of the scored rung before it, with a bootstrap interval."""
    found = []
    before: Score | None = None
    for row in rows:
        score: Score | None = row["score"]
        found.append({**row, **_gain(before, score)})
        before = score or before
    return found


def _gain(before: Score | None, score: Score | None) -> dict[str, Any]:
    if before is None or score is None:
        return dict.fromkeys(_GAIN)
    draws = resampled_top1([before, score])
    drawn = middle(draws[:, 1] - draws[:, 0])
    said = how_drawn([before, score])
    return dict(zip(_GAIN, (score.top1 - before.top1, *drawn, said), strict=True))


def _write_fits(
    folder: LadderFolder,
    ladder: Ladder,
    rows: Sequence[dict[str, Any]],
    trials: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    ended = {name: [row for row in found if row["state"] in MEASURED and row["best_epoch"]]
             for name, found in trials.items()}  # fmt: skip
    paths = {d.path: d for rung in ladder.rungs for d in rung.space.search}
    best = [
        best_values(rung.name, ended[rung.name], path) for path in paths.values() for rung in ladder.rungs
    ]
    folder.write_table("transfer", best, TRANSFER_COLUMNS)
    cost = _climbed(rows)
    moved = [slope([(row[cost], ended[row["rung"]]) for row in rows], path) for path in paths.values()]
    fits = {
        "ladder": folder.ledger()["key"],
        "scores": "validation top-1 of each rung's best trial; intervals are over its videos",
        "accuracy": fit_costs(rows, COSTS),
        "transfer": {"cost": cost, "slopes": moved},
    }
    write_json(folder.root / "fits.json", fits)


def _climbed(rows: Sequence[Mapping[str, Any]]) -> str:
    """The cost along which the rungs lie: the first of COSTS in which most of them differ."""
    different = {cost: len({row[cost] for row in rows if is_number(row[cost])}) for cost in COSTS}
    return max(COSTS, key=lambda cost: different[cost])


def _row(
    rung: Rung, noted: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], cost: Mapping[str, Any] | None
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(LADDER_COLUMNS)
    row |= {"rung": rung.name, "state": noted.get("state", "not begun"), "error": noted.get("error")}
    row |= {"train_videos": noted.get("train_videos"), "val_top1": math.nan, "val_videos": 0, "score": None}
    row |= {
        "trials": sum(trial["state"] in MEASURED for trial in trials),
        "device_seconds": device_seconds(trials, noted.get("devices", 1.0)),
    }
    best = best_trial(trials)
    if best is not None:
        row |= {name: best[name] for name in _SCORES if name in best}
        row |= {"best_trial": best["trial"], "score": best["score"]}
    if row["score"] is not None:
        row["bootstrap_low"], row["bootstrap_high"] = middle(resampled_top1([row["score"]]))
    if cost is not None:
        row |= cost_columns(cost)
    return row


def _has_random_weights(folder: LadderFolder, rung: str) -> bool | None:
    best = folder.rung(rung) / "best"
    if not (best / CONFIG).is_file():
        return None
    return "random" in read_record(best)["weights"].values()
