"""Importance of the searched settings of a study, by Optuna's PED-ANOVA, with a permutation null.

PED-ANOVA compares the distribution of a setting's values in the best quarter of the trials with that in all
trials. It supports conditional settings. fANOVA needs scikit-learn and does not support them.

Few trials give large importances by chance: without any effect, the largest share of 3 settings over 8 trials
is 0.73 at the median. The scores are therefore permuted over the trials, which removes every effect and keeps
the points. A setting is above the noise if

    I_s > m_s + q d_s    with q = 95 % quantile over permutations of max_s (I_s - m_s) / d_s

where I_s is the importance of setting s before it becomes a share of 1,
m_s and d_s are its mean and standard deviation over the permutations. Source: the single-step maxT procedure
of Westfall and Young (1993).

The maximum over the settings bounds the probability that a study without any effect shows anything by 5 %.
One quantile per setting would bound it by 5 % for each setting, so that a study of 8 settings shows something
in up to a third of the cases. Settings are standardised because the importance of a continuous setting varies
more by chance than that of a choice, which would hide the choices. `benchmarks/noise.py` has the simulation.
"""

import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FixedTrial

from evclip_ray.config import flatten
from evclip_ray.records import LeaderboardRow
from evclip_ray.tuning.journal import read_journal
from evclip_ray.tuning.optuna_storage import EVIDENCE, replay
from evclip_ray.tuning.search_space import SearchSpace, without_seed

log = logging.getLogger(__name__)
EVALUATOR = "PED-ANOVA, best quarter against all"
NEEDED_TRIALS = 8
"""Smallest number of trials, so that the best quarter has at least two."""
WITHIN_NOISE = "within noise"
"""Status of a setting whose importance does not exceed that of permuted scores."""
_PERMUTATIONS = 200
_QUANTILE = 0.95


def parameter_importance(space: SearchSpace, rows: Iterable[LeaderboardRow]) -> list[dict[str, Any]]:
    """Return one row per searched setting, the most important first.

    The distributions of a path with several ones have a row each.

    The column `importance` is a share of 1. `null` is the bound that the setting has to exceed, in the same
    unit, so it may be above 1. `status` is "ok" for an importance above it, "within noise"
    for another, or the reason why the importance is missing. A trial that was stopped early counts with its
    best epoch.

    Args:
        space: Search space.
        rows: Rows of the leaderboard.
    """
    return _table([d.name for d in space.search], rows, lambda row: _drawn(space, row))


def recorded_importance(journal: Path, rows: Iterable[LeaderboardRow]) -> list[dict[str, Any]]:
    """Return the rows of `parameter_importance` from a study's journal, without its search space.

    Returns an empty list if there is no journal. The journal is only read.
    """
    # Read as text: Optuna opens a journal for writing, which fails in a read-only folder.
    content = read_journal(journal)
    if content.damage == "middle":
        log.warning("%s: %s; the trials before it count. Run the study again", journal, content.reason)
    if not content.operations:
        return []
    own_trials = [trial for trial in replay(content.operations).trials if EVIDENCE not in trial.user_attrs]
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
    shares: dict[str, float] = {}
    null: dict[str, float] = {}
    if paths and status == "ok":
        shares, null = _shares_and_null([(row.val_top1, *point(row)) for row in rows])
    why_missing = "no trial had it" if status == "ok" else status
    return [
        {
            "path": path,
            "importance": shares.get(path),
            "null": null.get(path),
            "trials": len(rows),
            "evaluator": EVALUATOR,
            "status": _status(shares[path], null[path]) if path in shares else why_missing,
        }
        for path in sorted(paths, key=lambda path: -shares.get(path, 0.0))
    ]


def _status(share: float, null: float) -> str:
    return "ok" if share > null else WITHIN_NOISE


def _drawn(space: SearchSpace, row: LeaderboardRow) -> _Point:
    # PED-ANOVA needs Optuna's distributions, which the leaderboard does not have: sampling the known point
    # through the space gives them.
    settings = space.point_of({**flatten(space.fixed), **without_seed(row.overrides)})
    point = FixedTrial(space.params_of(settings))
    space.sample(point)
    return point.params, point.distributions


def _shares_and_null(
    trials: Iterable[tuple[float, dict[str, Any], dict[str, BaseDistribution]]],
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the share of each path, and the bound that it has to exceed to be above the noise."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # In memory: the evaluator takes a study only, and stopped trials must count as complete ones.
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        optuna.trial.create_trial(value=value, params=params, distributions=distributions)
        for value, params, distributions in trials
    )
    scores = np.array([trial.value for trial in study.trials])
    draw = np.random.default_rng(0)
    with warnings.catch_warnings():
        # The evaluator is experimental. It warns about settings with few values and about the target.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)
        measured = _divergences(study, scores)
        permuted = [_divergences(study, draw.permutation(scores)) for _ in range(_PERMUTATIONS)]
    # (1 + permutations, settings). The measurement is one of the possible permutations; without it, the
    # test would show something slightly too often.
    values = np.array([[row[path] for path in measured] for row in (measured, *permuted)])
    mean, deviation = values.mean(0), values.std(0)
    # A setting with one value has the same importance in every permutation, apart from rounding.
    deviation = np.maximum(deviation, 1e-9 * mean + 1e-300)
    # "higher": few trials have few different importances, and a value between two of them is not reached.
    bound = np.quantile(((values - mean) / deviation).max(1, initial=0), _QUANTILE, method="higher")
    null = mean + bound * deviation
    total = sum(measured.values()) or 1.0
    return (
        {path: value / total for path, value in measured.items()},
        {path: float(value) / total for path, value in zip(measured, null, strict=True)},
    )


def _divergences(study: optuna.Study, scores: NDArray[np.float64]) -> dict[str, float]:
    """Return the importance of each path that a trial has, before it becomes a share."""
    evaluator = PedAnovaImportanceEvaluator(target_quantile=0.25)
    # With a target, the evaluator assumes that lower values are better.
    importances: dict[str, float] = evaluator.evaluate(study, target=lambda trial: -scores[trial.number])
    return importances
