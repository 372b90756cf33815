"""Which searched settings mattered in a study, by Optuna's PED-ANOVA.

It compares how the values of a setting are spread among the best quarter of the trials with how they
are spread among all of them; settings that exist only under others are taken into account. fANOVA
would need scikit-learn, and says nothing of conditional settings.
"""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FixedTrial

from evclip_ray.config import flatten
from evclip_ray.tuning.leaderboard import MEASURED
from evclip_ray.tuning.optuna_storage import EVIDENCE, STUDY_NAME
from evclip_ray.tuning.search_space import SearchSpace, without_seed

EVALUATOR = "PED-ANOVA, best quarter against all"
NEEDED_TRIALS = 8
"""So that the best quarter is two trials at least."""


def parameter_importance(space: SearchSpace, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a searched path: `importance`, a share of 1, most important first.

    `rows`: of a leaderboard. A trial that was stopped early counts with the best that it had reached.
    Where `status` is not "ok" it says why there is no number.
    """
    return _table([d.path for d in space.search], rows, lambda row: _drawn(space, row))


def recorded_importance(journal: Path, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same from a study's journal alone, which is only read; empty where there is none."""
    if not journal.is_file():
        return []
    with tempfile.TemporaryDirectory() as folder:
        # Optuna opens a journal for writing, which a folder of another person may not allow.
        copy = shutil.copy(journal, folder)
        study = optuna.load_study(study_name=STUDY_NAME, storage=JournalStorage(JournalFileBackend(copy)))
        asked = [trial for trial in study.trials if EVIDENCE not in trial.user_attrs]
    points = {str(trial.user_attrs.get("folder")): (trial.params, trial.distributions) for trial in asked}
    paths = sorted({path for params, _ in points.values() for path in params})
    return _table(paths, [row for row in rows if row["trial"] in points], lambda row: points[row["trial"]])


_Point = tuple[dict[str, Any], dict[str, BaseDistribution]]
"""A trial's parameters, and what each was drawn from."""


def _table(
    paths: list[str], rows: Iterable[Mapping[str, Any]], point: Callable[[Mapping[str, Any]], _Point]
) -> list[dict[str, Any]]:
    rows = [row for row in rows if row["state"] in MEASURED and row["epochs"] > 0]
    status = "ok"
    if len(rows) < NEEDED_TRIALS:
        status = f"too few trials: {len(rows)}, {NEEDED_TRIALS} are needed"
    elif len({row["val_top1"] for row in rows}) == 1:
        status = "every trial has the same top-1"
    shares = _shares([(row["val_top1"], *point(row)) for row in rows]) if status == "ok" else {}
    return [
        {
            "path": path, "importance": shares.get(path), "trials": len(rows), "evaluator": EVALUATOR,
            "status": status if path in shares or status != "ok" else "no trial had it",
        }
        for path in sorted(paths, key=lambda path: -shares.get(path, 0.0))
    ]  # fmt: skip


def _drawn(space: SearchSpace, row: Mapping[str, Any]) -> _Point:
    point = FixedTrial(space.point_of({**flatten(space.fixed), **without_seed(row["overrides"])}))
    space.sample(point)
    return point.params, point.distributions


def _shares(trials: Iterable[tuple[float, dict[str, Any], dict[str, BaseDistribution]]]) -> dict[str, float]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        optuna.trial.create_trial(value=value, params=params, distributions=distributions)
        for value, params, distributions in trials
    )
    with warnings.catch_warnings():
        # It is experimental, and says of rarely drawn settings that it knows little of them.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=0.25))
