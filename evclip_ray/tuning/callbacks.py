"""Writes how each trial of a study ends, as Tune says so, and passes it on to whoever watches."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ray import tune

from evclip_ray.training.ray_trainer import release_places
from evclip_ray.tuning.stopper import Stops
from evclip_ray.tuning.study_folder import StudyFolder

OnEvent = Callable[[str, str, dict[str, Any]], None]
"""Called with what happened ("epoch" or "ended"), the trial's folder name and its metrics."""


class Recorder(tune.Callback):
    """Writes how each trial ended to its folder, and passes events on."""

    def __init__(self, folder: StudyFolder, epochs: int, stops: Stops, on_event: OnEvent) -> None:
        self._folder, self._epochs, self._stops, self._on_event = folder, epochs, stops, on_event

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore of its own, which is not used here; a progress
        # view cannot be pickled.
        return {}

    def on_trial_result(
        self, iteration: int, trials: Iterable[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Pass an epoch on."""
        if "error" not in result:
            self._on_event("epoch", trial.config["folder"], result)

    def on_trial_complete(self, iteration: int, trials: Iterable[Any], trial: Any, **info: Any) -> None:
        """Write how a trial ended that did not die."""
        last = trial.last_result
        state = "complete"
        if "error" in last:
            state = "failed"
        elif last.get("diverged"):
            state = "diverged"
        elif self._stops.is_paused(trial.trial_id, last):
            state = "paused"
        elif last.get("epoch", 0) < self._epochs:
            state = "stopped"
        self._end(trial, state, last.get("error"))

    def on_trial_error(self, iteration: int, trials: Iterable[Any], trial: Any, **info: Any) -> None:
        """Write that a trial died once too often."""
        self._end(trial, "failed", _last_line(trial.error_file))

    def _end(self, trial: Any, state: str, error: str | None) -> None:
        name = trial.config["folder"]
        release_places(self._folder.trial(name))
        self._folder.finish(name, state, error)
        self._on_event("ended", name, {**trial.last_result, "state": state, "error": error})


def _last_line(error_file: str | None) -> str:
    if error_file is None or not Path(error_file).is_file():
        return "the trial's process died"
    lines = [
        line.strip() for line in Path(error_file).read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    return lines[-1] if lines else "the trial's process died"
