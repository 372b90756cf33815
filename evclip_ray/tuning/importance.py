"""Which searched settings mattered in a study, by Optuna's PED-ANOVA.

It compares how the values of a setting are spread among the best quarter of the trials with how they
are spread among all of them; settings that exist only under others are taken into account. fANOVA
would need scikit-learn, and says nothing of conditional settings.
"""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FixedTrial

from evclip_ray.tuning.leaderboard import MEASURED
from evclip_ray.tuning.search_space import SearchSpace, flatten, without_seed

EVALUATOR = "PED-ANOVA, best quarter against all"
NEEDED_TRIALS = 8
"""So that the best quarter is two trials at least."""


def parameter_importance(space: SearchSpace, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a searched path: `importance`, a share of 1, most important first.

    `rows`: of a leaderboard. A trial that was stopped early counts with the best that it had reached.
    Where `status` is not "ok" it says why there is no number.
    """
    rows = [row for row in rows if row["state"] in MEASURED and row["epochs"] > 0]
    status = "ok"
    if len(rows) < NEEDED_TRIALS:
        status = f"too few trials: {len(rows)}, {NEEDED_TRIALS} are needed"
    elif len({row["val_top1"] for row in rows}) == 1:
        status = "every trial has the same top-1"
    shares = _shares(space, rows) if status == "ok" else {}
    paths = sorted((d.path for d in space.search), key=lambda path: -shares.get(path, 0.0))
    return [
        {
            "path": path, "importance": shares.get(path), "trials": len(rows), "evaluator": EVALUATOR,
            "status": status if path in shares or status != "ok" else "no trial had it",
        }
        for path in paths
    ]  # fmt: skip


def _shares(space: SearchSpace, rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for row in rows:
        point = FixedTrial(space.point_of({**flatten(space.fixed), **without_seed(row["overrides"])}))
        space.sample(point)
        study.add_trial(
            optuna.trial.create_trial(
                value=row["val_top1"], params=point.params, distributions=point.distributions
            )
        )
    with warnings.catch_warnings():
        # It is experimental, and says of rarely drawn settings that it knows little of them.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=0.25))
