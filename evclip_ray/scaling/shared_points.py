"""Points that a ladder evaluates at every step: the best points of each step, found by its own trials.

After the own trials of all steps have ended, each step runs the best points of the other steps that it lacks,
as trials of its study. Every step is then represented by the best of the same shared points, and no step has
been searched more than another. Starting a step from the best points of the step below is no alternative:
the later a step, the more trials are behind its best point. Four identical steps of 4 trials then "gain" 0.9
points, see `benchmarks/noise.py`.

A step's ledger lists the points that were added to its study. They count as trials of the study, and a
repeated call runs those that have not ended.
"""

from collections.abc import Mapping
from typing import Any

from evclip_ray.artifacts import LEDGER, digest
from evclip_ray.config import ConfigError, flatten
from evclip_ray.scaling.ladder_steps import LadderStep
from evclip_ray.tuning.leaderboard import leaderboard
from evclip_ray.tuning.optuna_storage import open_optuna
from evclip_ray.tuning.recovery import recover_study
from evclip_ray.tuning.search_space import SearchSpace, without_seed
from evclip_ray.tuning.study_folder import StudyFolder

SHARED = "shared_points"
"""Key of the added points in the ledger of a step's study, and attribute of their trials in its journal."""
_Point = dict[str, Any]


def added_points(folder: StudyFolder) -> list[_Point]:
    """Return the points of other steps that were added to a study."""
    return list(folder.ledger().get(SHARED, [])) if (folder.root / LEDGER).is_file() else []


def lacking_points(
    steps: Mapping[str, tuple[LadderStep, StudyFolder]], num_points: int
) -> dict[str, list[_Point]]:
    """Return the shared points that each step has neither run nor been given.

    Args:
        steps: Steps whose own trials have ended, by name. A step without a score is left out.
        num_points: Number of points that each step shares, its best ones.
    """
    best = {name: _best_points(step, folder, num_points) for name, (step, folder) in steps.items()}
    lacking = {}
    for name, (step, folder) in steps.items():
        if not best[name]:
            continue
        known = {digest(without_seed(trial.overrides)) for trial in folder.trials()}
        known |= {digest(point) for point in added_points(folder)}
        points = [
            _moved(point, other, step.space) for other, _ in steps.values() for point in best[other.name]
        ]
        distinct = {digest(point): point for point in points if point is not None}
        lacking[name] = [point for key, point in distinct.items() if key not in known]
    return lacking


def _best_points(step: LadderStep, folder: StudyFolder, num_points: int) -> list[_Point]:
    """Return the best points of a step's own trials, the best one first."""
    # Points of other steps are left out: with them, every repeated call would share further points.
    added = {digest(point) for point in added_points(folder)}
    best: dict[str, _Point] = {}
    for row in leaderboard(folder.trials()):
        point = without_seed(row.overrides)
        if row.state.has_final_score and row.best_epoch and digest(point) not in added:
            best.setdefault(digest(point), point)
    return list(best.values())[:num_points]


def _moved(point: _Point, step: LadderStep, space: SearchSpace) -> _Point | None:
    """Return the point of another step's space with the same settings, or None if it has none."""
    try:
        moved = space.point_of(flatten(step.space.experiment(point).model_dump(mode="json")))
        space.experiment(moved)
    except (ValueError, ConfigError):
        # Steps may search different settings, or a setting may be invalid for the step's backbone.
        return None
    return moved


def add_points(folder: StudyFolder, points: list[_Point]) -> None:
    """Add points to the ledger of a study. `enqueue_points` adds them to its journal."""
    with folder.lock():
        folder.note(**{SHARED: [*added_points(folder), *points]})


def enqueue_points(folder: StudyFolder, space: SearchSpace) -> None:
    """Enqueue the added points in the journal of a study. Points that it has are skipped.

    It is repeated in every call: a kill may come between the ledger and the journal.
    """
    points = added_points(folder)
    if not points:
        return
    with folder.lock():
        recover_study(folder, space)
        study = open_optuna(folder)
        # An interrupted trial keeps its attribute when `optuna_storage.recover` puts it back into the queue.
        known = {trial.user_attrs.get(SHARED) for trial in study.trials}
        for point in points:
            if digest(point) not in known:
                study.enqueue_trial(space.params_of(point), user_attrs={SHARED: digest(point)})
