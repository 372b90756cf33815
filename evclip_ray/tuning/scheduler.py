"""Early stopping of trials by ASHA or asynchronous Hyperband over epochs.

ASHA compares all trials from `grace_epochs` on. Hyperband distributes them over brackets (Li et al. 2018):
the first bracket is ASHA's, and each further one omits its lowest rung, for points that start slowly. The
last bracket has two rungs.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from evclip_ray.config import Overrides
from evclip_ray.objective import OBJECTIVE
from evclip_ray.ray_internals import assign_bracket, repeat_brackets
from evclip_ray.records import TrialRecord
from evclip_ray.tuning.distributions import Distribution
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.stopper import Stops
from evclip_ray.tuning.study_folder import StudyFolder


def make_scheduler(
    space: SearchSpace, folder: StudyFolder, *, max_epochs: int, stops: Stops | None = None
) -> TrialScheduler:
    """Return the scheduler of a study. It knows the results of earlier trials at each rung.

    Args:
        space: Search space with the scheduler's settings.
        folder: Folder of the study.
        max_epochs: Epochs of a complete trial.
        stops: Stopper of the study; None if no process of a trial is watched.
    """
    stops = stops or Stops(None, max_epochs=max_epochs)
    # With at most `grace_epochs` epochs there is no rung before the end of a trial.
    if space.study.scheduler == "none" or max_epochs <= space.study.grace_epochs:
        return _NoStopping(stops)
    return RememberingASHA(
        stops,
        folder,
        space.balanced,
        brackets=_num_brackets(space, max_epochs) if space.study.scheduler == "hyperband" else 1,
        # Tune's own count, `training_iteration`, begins again at 1 in a trial that was resumed.
        time_attr="epoch",
        metric=OBJECTIVE,
        mode="max",
        max_t=max_epochs,
        grace_period=space.study.grace_epochs,
        reduction_factor=space.study.reduction_factor,
    )


class _NotesDeaths(TrialScheduler):
    """Scheduler that tells the stopper why a process died. Tune calls it before the searcher."""

    _stops: Stops

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Note the last death of a trial. Tune also calls this before it restarts a process."""
        if trial.error_file and not trial.should_recover():
            self._stops.note_death(trial.trial_id, Path(trial.error_file).read_text(encoding="utf-8"))
        super().on_trial_error(tune_controller, trial)


class _NoStopping(_NotesDeaths, FIFOScheduler):
    """Scheduler that stops no trial."""

    def __init__(self, stops: Stops) -> None:
        super().__init__()
        self._stops = stops


class RememberingASHA(_NotesDeaths, AsyncHyperBandScheduler):
    """ASHA that replays the epochs of all earlier trials in the study's folder before it judges new ones.

    A continued trial is replayed under its own name, so that no rung judges it twice.

    Args:
        stops: Stopper of the study.
        folder: Folder of the study.
        balanced: Balanced choice of the space. Trials are compared within each of its values: a method that
            learns slowly at first would otherwise be stopped in all its trials.
        **options: Options of `AsyncHyperBandScheduler`.
    """

    def __init__(
        self, stops: Stops, folder: StudyFolder, balanced: Distribution | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._stops = stops
        self._balanced = balanced
        if balanced is not None:
            repeat_brackets(self, len(balanced.values))
        self._earlier = {trial.trial: _results(trial) for trial in folder.trials()}
        for trial in folder.trials():
            # Unfinished trials are replayed later, in `on_trial_add`, if they are continued.
            if trial.state.has_ended:
                self._recall(SimpleNamespace(trial_id=trial.trial), trial.trial, trial.overrides)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial, with the epochs that it already has."""
        self._recall(trial, trial.config["folder"], trial.config["overrides"])

    def _recall(self, trial: Any, name: str, overrides: Overrides) -> None:
        """Replay the epochs of an earlier trial. Decisions about them were made in the earlier call."""
        # Ray draws a bracket here; the next line replaces the draw by one that depends on the name alone.
        super().on_trial_add(None, trial)
        assign_bracket(self, trial.trial_id, lambda rungs: self._bracket_of(name, overrides, rungs))
        for epoch in self._earlier.get(name, []):
            # The returned decision is ignored: only the entry in the rung is needed.
            super().on_trial_result(None, trial, epoch)

    def _bracket_of(self, name: str, overrides: Overrides, rungs: Sequence[int]) -> int:
        if self._balanced is None:
            return _bracket_of(name, rungs)
        # The brackets of the first value come first, then those of the second.
        values = self._balanced.values
        count = len(rungs) // len(values)
        return values.index(overrides[self._balanced.path]) * count + _bracket_of(name, rungs[:count])


def _results(trial: TrialRecord) -> list[dict[str, Any]]:
    """Return the results of each epoch, as Tune received them."""
    values = trial.values_by_epoch
    return [{**epoch.values, OBJECTIVE: values[epoch.epoch]} for epoch in trial.history]


def _bracket_of(name: str, rungs: Sequence[int]) -> int:
    """Return the index of a trial's bracket, the same in every process.

    Ray draws it with probability proportional to exp(number of rungs). The same draw seeded by the trial's
    name gives a resumed trial its old bracket.
    """
    return random.Random(name).choices(range(len(rungs)), [math.exp(count) for count in rungs])[0]


def _num_brackets(space: SearchSpace, max_epochs: int) -> int:
    # Counts the rungs grace, grace * factor, grace * factor^2, ... up to the last epoch.
    rungs, study = 1, space.study
    while study.grace_epochs * study.reduction_factor**rungs <= max_epochs:
        rungs += 1
    return max(1, rungs - 1)
