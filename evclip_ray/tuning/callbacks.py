"""Tune callback of a study: writes how each trial ended and reports events of trials."""

import logging
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ray import tune

from evclip_ray.progress import Progress
from evclip_ray.records import EpochMetrics, TrialRecord, TrialState
from evclip_ray.training.ray_trainer import release_places
from evclip_ray.training.run_registry import stage_of
from evclip_ray.tuning.stopper import FAULT, WAITING, Stops
from evclip_ray.tuning.study_folder import StudyFolder

log = logging.getLogger(__name__)
_POLL_SECONDS = 0.5
_STARTING = "starting the processes of the trials"

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
        if "error" not in result and FAULT not in result and WAITING not in result:
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
        line = _last_line(trial.error_file)
        reason = re.search(r"(the GPU cannot be used|a GPU is lost) \(.*\)", line)
        log.warning(
            "%s: %s; it starts again from its last finished epoch",
            trial.config["folder"],
            reason[0] if reason else "its process died (killed, or out of memory)",
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


class TrialStages(tune.Callback):
    """Callback that reports what the running trials do before their first epoch, such as loading networks.

    Args:
        folder: Folder of the study.
        progress: Receiver of the stages; None for none.
    """

    def __init__(self, folder: StudyFolder, progress: Progress | None) -> None:
        self._folder, self._progress = folder, progress
        self._shown: set[str] = set()
        self._trained: set[str] = set()
        self._next_poll = 0.0

    def __getstate__(self) -> dict[str, Any]:
        # See `Recorder`.
        return {}

    def on_step_begin(self, iteration: int, trials: Iterable[Any], **info: Any) -> None:
        """Read the stages of the trials."""
        if self._progress is None or time.monotonic() < self._next_poll:
            return
        self._next_poll = time.monotonic() + _POLL_SECONDS
        names = [trial.config["folder"] for trial in trials if trial.status in ("PENDING", "RUNNING")]
        waiting = [name for name in names if name not in self._trained]
        stages = {stage_of(self._folder.trial(name)) or _STARTING for name in waiting}
        # A trial that waits for a free slot while others train is not a stage.
        self._show(stages - {_STARTING} if self._trained else stages)

    def on_trial_result(
        self, iteration: int, trials: Iterable[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note that a trial has trained its first epoch."""
        if WAITING not in result:
            self._trained.add(trial.config["folder"])

    def on_experiment_end(self, trials: Iterable[Any], **info: Any) -> None:
        """Remove all stages."""
        self._show(set())

    def _show(self, stages: set[str]) -> None:
        if self._progress is not None:
            for name in sorted(self._shown - stages):
                self._progress(name, 1, 1)
            for name in sorted(stages - self._shown):
                self._progress(name, 0, 1)
        self._shown = stages


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
