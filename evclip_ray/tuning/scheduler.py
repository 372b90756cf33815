"""Which trials are stopped early: ASHA over epochs, with a memory that outlives the process."""

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.study import FINISHED, OBJECTIVE, StudyFolder


def make_scheduler(space: SearchSpace, folder: StudyFolder, *, max_epochs: int) -> TrialScheduler:
    """The scheduler of a study, which knows what its earlier trials reached at each rung."""
    if space.study.scheduler == "none" or max_epochs <= space.study.grace_epochs:
        return FIFOScheduler()
    return RememberingASHA(
        folder,
        time_attr="epoch", metric=OBJECTIVE, mode="max", max_t=max_epochs,
        grace_period=space.study.grace_epochs, reduction_factor=space.study.reduction_factor,
    )  # fmt: skip


class RememberingASHA(AsyncHyperBandScheduler):
    """ASHA that first hears what the study's folder holds: every epoch of every trial before this call.

    A trial that goes on is heard under its own name, so that no rung judges it twice.
    """

    def __init__(self, folder: StudyFolder, **options: Any) -> None:
        super().__init__(**options)
        self._earlier = {
            trial["trial"]: [{**epoch, OBJECTIVE: epoch["best_val_top1"]} for epoch in trial["history"]]
            for trial in folder.trials()
        }
        for trial in folder.trials():
            if trial["state"] in FINISHED:
                self._recall(SimpleNamespace(trial_id=trial["trial"]), trial["trial"])

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take a trial in, with the epochs that it has behind it."""
        self._recall(trial, trial.config["folder"])

    def _recall(self, trial: Any, name: str) -> None:
        """Pass on an earlier trial's epochs; what is said of them was said then."""
        super().on_trial_add(None, trial)
        for epoch in self._earlier.get(name, []):
            super().on_trial_result(None, trial, epoch)
