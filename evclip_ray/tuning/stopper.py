"""Ending a study's call early, with everything kept: when its time is up, or on Ctrl-C."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from ray.tune import Stopper


class Stops(Stopper):
    """Tells Tune which trials to pause: each at its next epoch once the time is up, all at once on Ctrl-C.

    An `error` that ends the study's call pauses them as the end of the time does. A paused trial has not
    ended: Optuna keeps it as running, and the next call goes on with it.
    `deadline`: on the clock of `time.monotonic`, None for no end; `max_epochs`: of a whole trial.
    """

    def __init__(self, deadline: float | None, *, max_epochs: int) -> None:
        self._deadline = math.inf if deadline is None else deadline
        self._max_epochs = max_epochs
        self._paused: set[str] = set()
        self.interrupted = False
        self.error: Exception | None = None

    @property
    def out_of_time(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._deadline

    @property
    def is_over(self) -> bool:
        """Whether no further trial may start."""
        return self.interrupted or self.error is not None or self.out_of_time

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether a trial that has just reported is to be paused."""
        if not self.is_over or self._has_ended(result):
            return False
        self._paused.add(trial_id)
        return True

    def stop_all(self) -> bool:
        """Whether to end now, in the middle of an epoch."""
        return self.interrupted

    def is_paused(self, trial_id: str, last: Mapping[str, Any]) -> bool:
        """Whether a trial that Tune has stopped is to go on later. `last`: its last result, if any."""
        return trial_id in self._paused or (self.interrupted and not self._has_ended(last))

    def _has_ended(self, result: Mapping[str, Any]) -> bool:
        ended = "error" in result or result.get("diverged")
        return bool(ended) or result.get("epoch", 0) >= self._max_epochs

    @contextlib.contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """Take the first Ctrl-C as a wish to end; the next one is Python's own again.

        Tune's handler, which this stands in for, does not say afterwards that it was called.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        before = signal.getsignal(signal.SIGINT)

        def handle(number: int, frame: FrameType | None) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
