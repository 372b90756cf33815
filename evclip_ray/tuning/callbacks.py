"""Tune callback of a study: writes how each trial ended and reports events of trials."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ray import tune

from evclip_ray.records import EpochMetrics, TrialRecord, TrialState
from evclip_ray.training.ray_trainer import release_places
from evclip_ray.tuning.stopper import FAULT, Stops
from evclip_ray.tuning.study_folder import StudyFolder

log = logging.getLogger(__name__)

OnEvent = Callable[[str, TrialRecord], None]
"""Called with "epoch" or "ended" and the trial; its history has the last epoch as Tune received it."""


class Recorder(tune.Callback):
    """Callback that writes how each trial ended to its folder and calls `on_event`."""

    def __init__(self, folder: StudyFolder, epochs: int, stops: Stops, on_event: OnEvent) -> None:
        self._folder, self._epochs, self._stops, self._on_event = folder, epochs, stops, on_event

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for its own restore, which is not used here. A progress view cannot be
        # pickled.
        return {}

    def on_trial_result(
        self, iteration: int, trials: Iterable[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Report an epoch."""
        if "error" not in result and FAULT not in result:
            self._on_event("epoch", _record(trial, result))

    def on_trial_complete(self, iteration: int, trials: Iterable[Any], trial: Any, **info: Any) -> None:
        """Write how a trial ended whose process did not die."""
        # Tune calls this for finished, stopped and paused trials alike; the last result tells them apart. The
        # order of the tests counts: an error or divergence is final, also during a pause.
        last = trial.last_result
        state = TrialState.COMPLETE
        if "error" in last:
            state = TrialState.FAILED
        elif last.get("diverged"):
            state = TrialState.DIVERGED
        elif self._stops.is_paused(trial.trial_id, last):
            state = TrialState.PAUSED
        elif last.get("epoch", 0) < self._epochs:
            state = TrialState.STOPPED
        self._end(trial, state, last.get("error"))

    def on_trial_recover(self, iteration: int, trials: Iterable[Any], trial: Any, **info: Any) -> None:
        """Log that a trial starts again after the death of its process."""
        log.warning(
            "%s: its process died (killed, or out of memory); it starts again from its last finished epoch",
            trial.config["folder"],
        )

    def on_trial_error(self, iteration: int, trials: Iterable[Any], trial: Any, **info: Any) -> None:
        """Write that a trial's process died more often than it may, or pause it after a fault."""
        if self._stops.is_paused(trial.trial_id, {}):
            self._end(trial, TrialState.PAUSED, None)
        else:
            self._end(trial, TrialState.FAILED, _last_line(trial.error_file))

    def _end(self, trial: Any, state: TrialState, error: str | None) -> None:
        name = trial.config["folder"]
        with self._stops.pausing():
            # A driver that Tune killed cannot release the workers of its group.
            release_places(self._folder.trial(name))
            self._folder.finish(name, state, error)
        self._on_event("ended", _record(trial, trial.last_result, state, error))


def _record(
    trial: Any,
    result: dict[str, Any],
    state: TrialState = TrialState.RUNNING,
    error: str | None = None,
) -> TrialRecord:
    last = EpochMetrics.from_record(result)
    return TrialRecord(trial.config["folder"], trial.config["overrides"], state, error, (last,))


def _last_line(error_file: str | None) -> str:
    if error_file is None or not Path(error_file).is_file():
        return "the trial's process died"
    lines = [
        line.strip() for line in Path(error_file).read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    return lines[-1] if lines else "the trial's process died"
