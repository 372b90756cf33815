"""Importance of the searched settings of a study, by Optuna's PED-ANOVA.

PED-ANOVA compares the distribution of a setting's values in the best quarter of the trials with that in all
trials. It supports conditional settings. fANOVA needs scikit-learn and does not support them.
"""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FixedTrial

from evclip_ray.config import flatten
from evclip_ray.records import LeaderboardRow
from evclip_ray.tuning.optuna_storage import EVIDENCE, STUDY_NAME
from evclip_ray.tuning.search_space import SearchSpace, without_seed

EVALUATOR = "PED-ANOVA, best quarter against all"
NEEDED_TRIALS = 8
"""Smallest number of trials, so that the best quarter has at least two."""


def parameter_importance(space: SearchSpace, rows: Iterable[LeaderboardRow]) -> list[dict[str, Any]]:
    """Return one row per searched path, the most important first.

    The column `importance` is a share of 1. If `status` is not "ok", it gives the reason why the importance
    is missing. A trial that was stopped early counts with its best epoch.

    Args:
        space: Search space.
        rows: Rows of the leaderboard.
    """
    return _table([d.path for d in space.search], rows, lambda row: _drawn(space, row))


def recorded_importance(journal: Path, rows: Iterable[LeaderboardRow]) -> list[dict[str, Any]]:
    """Return the rows of `parameter_importance` from a study's journal, without its search space.

    Returns an empty list if there is no journal. The journal is only read.
    """
    if not journal.is_file():
        return []
    with tempfile.TemporaryDirectory() as folder:
        # Optuna opens a journal for writing, which fails in a read-only folder.
        copy = shutil.copy(journal, folder)
        study = optuna.load_study(study_name=STUDY_NAME, storage=JournalStorage(JournalFileBackend(copy)))
        own_trials = [trial for trial in study.trials if EVIDENCE not in trial.user_attrs]
    points = {
        str(trial.user_attrs.get("folder")): (trial.params, trial.distributions) for trial in own_trials
    }
    paths = sorted({path for params, _ in points.values() for path in params})
    return _table(paths, [row for row in rows if row.trial in points], lambda row: points[row.trial])


_Point = tuple[dict[str, Any], dict[str, BaseDistribution]]
"""Parameters of a trial, and their distributions."""


def _table(
    paths: list[str], rows: Iterable[LeaderboardRow], point: Callable[[LeaderboardRow], _Point]
) -> list[dict[str, Any]]:
    rows = [row for row in rows if row.state.has_final_score and row.epochs > 0]
    status = "ok"
    # Equal scores have no best quarter, and too few trials give an importance that is noise.
    if len(rows) < NEEDED_TRIALS:
        status = f"too few trials: {len(rows)}, {NEEDED_TRIALS} are needed"
    elif len({row.val_top1 for row in rows}) == 1:
        status = "every trial has the same top-1"
    shares = _shares([(row.val_top1, *point(row)) for row in rows]) if status == "ok" else {}
    return [
        {
            "path": path,
            "importance": shares.get(path),
            "trials": len(rows),
            "evaluator": EVALUATOR,
            "status": status if path in shares or status != "ok" else "no trial had it",
        }
        for path in sorted(paths, key=lambda path: -shares.get(path, 0.0))
    ]


def _drawn(space: SearchSpace, row: LeaderboardRow) -> _Point:
    # PED-ANOVA needs Optuna's distributions, which the leaderboard does not have: sampling the known point
    # through the space gives them.
    point = FixedTrial(space.point_of({**flatten(space.fixed), **without_seed(row.overrides)}))
    space.sample(point)
    return point.params, point.distributions


def _shares(trials: Iterable[tuple[float, dict[str, Any], dict[str, BaseDistribution]]]) -> dict[str, float]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # In memory: the evaluator takes a study only, and stopped trials must count as complete ones.
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        optuna.trial.create_trial(value=value, params=params, distributions=distributions)
        for value, params, distributions in trials
    )
    with warnings.catch_warnings():
        # The evaluator is experimental, and it warns about settings with few values.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=0.25))
