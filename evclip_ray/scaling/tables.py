"""Tables of a ladder, computed from the studies of its steps. Only validation scores are read.

Each step is represented by its best trial: the first of its leaderboard that has a score. The columns that a
leaderboard has too, with their intervals, are copied from there. The intervals of the fits and of the gains
over the previous step come from resampled videos, or groups of videos.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evclip_ray.artifacts import LEDGER, ArtifactError, write_json
from evclip_ray.records import LeaderboardRow, TrialRecord, random_weights_warning
from evclip_ray.scaling.bootstrap import Score, how_drawn, interval_of_difference, is_number
from evclip_ray.scaling.fit import fit_costs
from evclip_ray.scaling.ladder_folder import NOTED_STEPS, LadderFolder
from evclip_ray.scaling.ladder_steps import Ladder, LadderStep
from evclip_ray.scaling.pareto import FRONTS, mark_fronts
from evclip_ray.scaling.shared_points import added_points
from evclip_ray.scaling.step_costs import (
    COST_COLUMNS,
    COUNTED,
    MEASURED_STEPS,
    cost_columns,
    cost_of,
    cost_rows,
)
from evclip_ray.scaling.transfer import ScoredTrial, best_values, slope
from evclip_ray.training.checkpoint import CONFIG, latest_checkpoint, read_record
from evclip_ray.training.per_video_scores import VideoScores
from evclip_ray.tuning.choice import right_shares
from evclip_ray.tuning.importance import parameter_importance
from evclip_ray.tuning.leaderboard import leaderboard
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.trial_folder import warn_once

COSTS = ("inference_gmac", "total_parameters", "trainable_parameters", "latency_seconds", "train_videos")
"""Costs that accuracy is fitted over, by priority for the slopes of settings."""
_SCORES = (
    "trials",
    "best_trial",
    "val_top1",
    "val_top1_low",
    "val_top1_high",
    "corrected_top1",
    "corrected_top1_low",
    "corrected_top1_high",
    "val_videos",
    "zero_shot_top1",
    "device_seconds",
    "random_weights",
)
_GAIN = ("gain", "gain_low", "gain_high", "gain_interval")
LADDER_COLUMNS = (
    "rung",
    "state",
    "error",
    *_SCORES,
    *_GAIN,
    "train_videos",
    *COUNTED,
    *MEASURED_STEPS,
    "measured_batch",
    "measured_on",
    *FRONTS,
    "shared_points",
    "warm_start",
)
IMPORTANCE_COLUMNS = ("rung", "path", "importance", "null", "trials", "evaluator", "status")
TRANSFER_COLUMNS = ("rung", "path", "best", "low", "high", "within_noise", "trials", "status")


@dataclasses.dataclass(frozen=True)
class _Shares:
    """Results of a trial on V videos, see `bootstrap.PerVideo`."""

    videos: str
    right: NDArray[np.float64]
    groups: NDArray[np.int64] | None


def with_scores(folder: StudyFolder) -> list[ScoredTrial]:
    """Return the trials of a study, best first, with their scores: None for a trial without one."""
    trials = {trial.trial: trial for trial in folder.trials()}
    return [ScoredTrial(row, _score(folder, row, trials[row.trial])) for row in leaderboard(trials.values())]


def _score(folder: StudyFolder, row: LeaderboardRow, trial: TrialRecord) -> Score | None:
    top1, videos = row.val_top1, row.val_videos
    if not row.best_epoch or not is_number(top1) or not videos:
        return None
    known = right_shares(trial)
    if known is not None:
        return Score(top1, videos, _Shares(known[0].videos, known[1], known[0].groups))
    # Earlier versions kept the answers of the best epoch only.
    checkpoint = latest_checkpoint(folder.trial(row.trial) / "best")
    try:
        each = VideoScores.read(checkpoint) if checkpoint is not None else None
    except ArtifactError as problem:
        warn_once(str(problem))
        each = None
    # A process that was killed between the two writes may have left a better checkpoint than its history.
    matches = each is not None and math.isclose(each.right.mean(), top1, abs_tol=0.5 / videos)
    return Score(top1, videos, each if matches else None)


def best_trial(rows: Sequence[LeaderboardRow]) -> LeaderboardRow | None:
    """Return the first trial of a leaderboard that has a score, or None."""
    return next((row for row in rows if row.best_epoch and is_number(row.val_top1)), None)


def device_seconds(rows: Sequence[LeaderboardRow], devices: float) -> float:
    """Return the device time of the trials of a study, with `devices` GPUs (without GPUs: CPUs) per trial."""
    return devices * float(sum(row.seconds for row in rows))


def write_tables(folder: LadderFolder, ladder: Ladder, *, measure: bool) -> list[dict[str, Any]]:
    """Write the tables and fits of the steps so far, and return the rows of ladder.csv.

    The key `important` of a row has the settings above the noise, or the reason why there is none.

    Args:
        folder: The ladder's folder.
        ladder: The ladder; steps without a study get a row without scores.
        measure: Also measure time and memory of each step's best experiment.
    """
    noted = {step["name"]: step for step in folder.ledger().get(NOTED_STEPS, [])}
    studies = {step.name: StudyFolder(folder.step(step.name)) for step in ladder.steps}
    trials = {name: with_scores(study) for name, study in studies.items()}
    costs = {step.name: cost_of(folder, step, measure=measure) for step in ladder.steps}
    rows = [
        _row(step, noted.get(step.name, {}), trials[step.name], costs[step.name]) for step in ladder.steps
    ]
    for row in rows:
        study = studies[row["rung"]]
        row["random_weights"] = _has_random_weights(folder, row["rung"])
        row["shared_points"], row["warm_start"] = len(added_points(study)), _warm_start(study)
    rows = with_gains(mark_fronts(rows))
    folder.write_table("ladder", rows, LADDER_COLUMNS)
    priced = [row for name, cost in costs.items() if cost for row in cost_rows(name, cost)]
    folder.write_table("costs", priced, COST_COLUMNS)
    important = [
        {"rung": step.name, **row}
        for step in ladder.steps
        for row in parameter_importance(step.space, [trial.row for trial in trials[step.name]])
    ]
    folder.write_table("importance", important, IMPORTANCE_COLUMNS)
    for row in rows:
        row["important"] = _above_noise([one for one in important if one["rung"] == row["rung"]])
    _write_fits(folder, ladder, rows, trials)
    return rows


def with_gains(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with `gain`: top-1 minus that of the previous scored step, with its interval."""
    with_gain = []
    before: Score | None = None
    for row in rows:
        # The last scored step is the reference: a failed step in between does not interrupt the comparison.
        score: Score | None = row["score"]
        with_gain.append({**row, **_gain(before, score)})
        before = score or before
    return with_gain


def _gain(before: Score | None, score: Score | None) -> dict[str, Any]:
    if before is None or score is None:
        return dict.fromkeys(_GAIN)
    drawn = interval_of_difference(before, score)
    resampling = how_drawn([before, score])
    return dict(zip(_GAIN, (score.top1 - before.top1, *drawn, resampling), strict=True))


def _write_fits(
    folder: LadderFolder,
    ladder: Ladder,
    rows: Sequence[dict[str, Any]],
    trials: Mapping[str, Sequence[ScoredTrial]],
) -> None:
    ended = {
        name: [trial for trial in scored if trial.row.state.has_final_score and trial.row.best_epoch]
        for name, scored in trials.items()
    }
    # Steps search the same settings, except for those that distinguish them.
    paths = {d.path: d for step in ladder.steps for d in step.space.search}
    best = [
        best_values(step.name, ended[step.name], path) for path in paths.values() for step in ladder.steps
    ]
    folder.write_table("transfer", best, TRANSFER_COLUMNS)
    cost = _climbed(rows)
    moved = [slope([(row[cost], ended[row["rung"]]) for row in rows], path) for path in paths.values()]
    fits = {
        "ladder": folder.ledger()["key"],
        "scores": "validation top-1 of each step's best trial; intervals are over its videos",
        "accuracy": fit_costs(rows, COSTS),
        "transfer": {"cost": cost, "slopes": moved},
    }
    write_json(folder.root / "fits.json", fits)


def _climbed(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the cost of COSTS in which the most steps differ, the first of equal ones."""
    different = {cost: len({row[cost] for row in rows if is_number(row[cost])}) for cost in COSTS}
    # `max` returns the first of equal values, so the order of COSTS is the priority.
    return max(COSTS, key=lambda cost: different[cost])


def _row(
    step: LadderStep,
    noted: Mapping[str, Any],
    trials: Sequence[ScoredTrial],
    cost: Mapping[str, Any] | None,
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(LADDER_COLUMNS)
    row |= {"rung": step.name, "state": noted.get("state", "not begun"), "error": noted.get("error")}
    row |= {"train_videos": noted.get("train_videos"), "val_top1": math.nan, "val_videos": 0, "score": None}
    row |= {
        "trials": sum(trial.row.state.has_final_score for trial in trials),
        "device_seconds": device_seconds([trial.row for trial in trials], noted.get("devices", 1.0)),
    }
    best = best_trial([trial.row for trial in trials])
    if best is not None:
        # Columns of the ladder that have the name of a leaderboard column are copied from the best trial.
        row |= {name: getattr(best, name) for name in _SCORES if hasattr(best, name)}
        row |= {"best_trial": best.trial, "score": next(t.score for t in trials if t.row is best)}
    if cost is not None:
        row |= cost_columns(cost)
    return row


def _above_noise(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the settings of a step whose importance is above the noise, or the reason for none."""
    above = [str(row["path"]) for row in rows if row["status"] == "ok"]
    # The first row has the largest importance, so its status holds for all.
    return ", ".join(above) or (str(rows[0]["status"]) if rows else "nothing is searched")


def _warm_start(study: StudyFolder) -> str | None:
    """Return the step whose best points were run first. Earlier versions started each step from another."""
    earlier = study.ledger().get("warm_start") if (study.root / LEDGER).is_file() else None
    return Path(earlier[0]["folder"]).name if earlier else None


def _has_random_weights(folder: LadderFolder, step: str) -> bool | None:
    best = folder.step(step) / "best"
    if not (best / CONFIG).is_file():
        return None
    return random_weights_warning(read_record(best)["weights"]) is not None
