"""The searcher: Ray's OptunaSearch with a memory on disk and honest trial states."""

import math
import warnings
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from evclip_ray.tuning.search_space import SearchSpace

OBJECTIVE = "objective"
"""The reported metric that is maximised: the best validation top-1 up to that epoch."""


class StudySearch(OptunaSearch):
    """Asks an Optuna study for points and tells it how each trial ended.

    It departs from its base in four ways: a trial's folder goes with its point, so that a point
    interrupted by a kill goes on in the folder that it began in; a trial that the scheduler
    stopped is told as PRUNED, not as a complete one with an early value; a result without a number
    is told as FAIL instead of staying RUNNING for ever; and its state is the study's own storage,
    so that Tune's snapshots of the searcher hold nothing.
    """

    def __init__(self, space: SearchSpace, study: optuna.Study, *, max_epochs: int) -> None:
        super().__init__(
            space=space.sample, metric=OBJECTIVE, mode="max",
            sampler=study.sampler, storage=study._storage, study_name=study.study_name,
        )  # fmt: skip
        self._search_space = space
        self._max_epochs = max_epochs

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The next point as `{"folder": ..., "overrides": {...}}`."""
        trial = self._ot_trials[trial_id] = self._ot_study.ask()
        folder = trial.user_attrs.get("folder", f"trial-{trial.number:04d}")
        trial.set_user_attr("folder", folder)
        return {"folder": folder, "overrides": self._search_space.sample(trial)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass an epoch's value on, by epoch: a restarted trial counts Tune's iterations anew."""
        trial = self._ot_trials[trial_id]
        if math.isfinite(result[OBJECTIVE]):
            trial.report(result[OBJECTIVE], result["epoch"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how the trial ended."""
        if trial_id in self._completed_trials or trial_id not in self._ot_trials:
            return
        self._completed_trials.add(trial_id)
        trial = self._ot_trials[trial_id]
        last = result or {}
        value = last.get(OBJECTIVE)
        if error or value is None or not math.isfinite(value):
            self._ot_study.tell(trial, state=TrialState.FAIL)
        elif last["epoch"] < self._max_epochs and not last.get("diverged"):
            self._ot_study.tell(trial, state=TrialState.PRUNED)
        else:
            self._ot_study.tell(trial, value)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study's storage is the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


def make_sampler(kind: str, *, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """TPE over joint, conditional spaces, aware of running trials; or random search."""
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # The default of 10 random trials would leave a small study no trial to learn with.
    startup = max(3, min(10, trials // 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        )
