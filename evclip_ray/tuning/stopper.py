"""Early end of a study's call without losing finished work.

Its causes are the end of the time, Ctrl-C, SIGTERM, and faults of the machine.
"""

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from ray.tune import Stopper

from evclip_ray.machine_faults import Fault, fault_in_text, find_fault
from evclip_ray.termination import announce_stop, note_signal

FAULT = "fault"
"""Key of a result that reports a fault of the machine instead of an epoch. Its value is a `Fault` as JSON:
Tune would flatten a mapping."""
WAITING = "waiting"
"""Key of a result that a trial reports while it waits for a GPU. Without results, nothing could stop it: Tune
sends a trial its decisions as answers to them."""


class Stops(Stopper):
    """Stopper that pauses trials: each at its next epoch when the time is up, all at once on Ctrl-C.

    An `error` or a `fault` that ends the study's call pauses trials like the end of the time. A paused trial
    has not ended: Optuna keeps it as running, and the next call continues it.

    Args:
        deadline: End on the clock of `time.monotonic`; None for no end.
        max_epochs: Epochs of a complete trial.
    """

    def __init__(self, deadline: float | None, *, max_epochs: int) -> None:
        self._deadline = math.inf if deadline is None else deadline
        self._max_epochs = max_epochs
        self._paused: set[str] = set()
        self.interrupted = False
        self.error: Exception | None = None
        self.fault: Fault | None = None

    @property
    def out_of_time(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._deadline

    @property
    def is_over(self) -> bool:
        """Whether no further trial may start."""
        has_problem = self.error is not None or self.fault is not None
        return self.interrupted or has_problem or self.out_of_time

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Return whether to pause a trial that has just reported an epoch or a fault of the machine."""
        if FAULT in result:
            # Several trials meet a full disk. The first one says which file could not be written.
            self.fault = self.fault or Fault(**json.loads(result[FAULT]))
        if not self.is_over or self._has_ended(result):
            return False
        # Remembered, because Tune reports a stopped trial as complete: the recorder and the searcher look it
        # up.
        self._paused.add(trial_id)
        return True

    def note_death(self, trial_id: str, error: str) -> None:
        """Pause a trial whose process died of a fault of the machine, given the text of Ray's error."""
        fault = fault_in_text(error)
        if fault is not None:
            self.fault = self.fault or fault
            self._paused.add(trial_id)

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Pause the study if the block raises an error that is a fault of the machine."""
        try:
            yield
        except Exception as error:
            fault = find_fault(error)
            if fault is None:
                raise
            self.fault = self.fault or fault

    def stop_all(self) -> bool:
        """Return whether to end at once, in the middle of an epoch."""
        return self.interrupted

    def is_paused(self, trial_id: str, last: Mapping[str, Any]) -> bool:
        """Return whether a stopped trial is paused, so that a later call continues it.

        Args:
            trial_id: Tune's id of the trial.
            last: Last result of the trial; empty if it has none.
        """
        # Ctrl-C ends trials in the middle of an epoch, without a further call of the stopper.
        return trial_id in self._paused or (self.interrupted and not self._has_ended(last))

    def _has_ended(self, result: Mapping[str, Any]) -> bool:
        ended = "error" in result or result.get("diverged")
        return bool(ended) or result.get("epoch", 0) >= self._max_epochs

    @contextlib.contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """End the study on the first Ctrl-C or SIGTERM. The second one raises KeyboardInterrupt as usual.

        This replaces Tune's own handler, which does not report afterwards that it was called.
        """
        # Python allows signal handlers in the main thread only. A study in another thread keeps the caller's
        # handler.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # Tune reads the variable when `fit` begins.
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def handle(number: int, frame: FrameType | None) -> None:
            self.interrupted = True
            note_signal(number)
            announce_stop()
            signal.signal(number, before[signal.Signals(number)])

        for number in before:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
