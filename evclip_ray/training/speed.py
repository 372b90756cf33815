"""Speed of a run relative to what its device can do: three shares for each epoch.

    matrix_share = F / (s R)
    bare_share   = b / s
    wait_share   = w / s

where
    s: seconds of a training step, with its input and its update (mean of the epoch)
    F: operations that a step needs, see `useful_flop`
    R: rate of matrix products in the format of the step, see `matrix_rate`
    b: seconds of the gradients of a batch that is on the device already
    w: seconds in which a step waits for its batch

R, F and b are measured once for a run. They take about a second, which does not count as training. A run of
fewer than `MIN_STEPS` steps has only `wait_share`. With several workers, all numbers are those of the first
worker, its part of the batch and its device.
"""

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from evclip_ray.models.batch import VideoBatch
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.matrix_rate import MatrixRate, matrix_rate
from evclip_ray.training.step import TrainingStep
from evclip_ray.training.useful_flop import useful_flop

log = logging.getLogger(__name__)

MIN_STEPS = 50
"""Steps from which a run is measured. In a shorter one, the measurement would take much of its time."""
_SHARE_OF_STEPS = 0.02
_MOST_STEPS = 3
_LONGEST_STEP_SECONDS = 5.0

SPEED = "speed"
"""Key of the measured numbers in the `config.json` of a checkpoint."""


class InputClock:
    """Clock of the time in which the steps of an epoch wait for their batches.

    On a GPU, the host runs ahead of the device, so that the wait of the host is no wait of the step. The time
    is then that of the device between the end of a step's work and the moment at which the next batch is
    ready.

    Args:
        device: Device of the steps.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._waits: list[tuple[Any, Any]] = []

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure the block, which makes the next batch."""
        began = self._mark()
        yield
        self._waits.append((began, self._mark()))

    def seconds(self) -> float:
        """Return the sum of all waits. The device must have finished its work."""
        if self._device.type == "cuda":
            return float(sum(began.elapsed_time(ended) for began, ended in self._waits)) / 1000
        return float(sum(ended - began for began, ended in self._waits))

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        # Without a wait: the device notes the time when it has finished everything before.
        event.record(torch.cuda.current_stream(self._device))
        return event


class SpeedMeter:
    """Measurement of a run's speed.

    `begin` is called before the first step, and `shares` after the steps of each epoch. An error of a
    measurement is logged once, and its share is missing.

    Args:
        experiment: Settings of the run.
        classes: Names of the classes.
        step: Steps of the run.
        cache: Cache folder, for the matrix rate; None if the run has none.
    """

    def __init__(
        self, experiment: ExperimentConfig, classes: Sequence[str], step: TrainingStep, *, cache: Path | None
    ) -> None:
        self._experiment, self._classes, self._step, self._cache = experiment, classes, step, cache
        self._num_steps = 0
        self._is_measured = False
        self._rate: MatrixRate | None = None
        self._flop_per_video = self._bare_rate = math.nan
        self._spent = 0.0

    def begin(self, num_steps: int) -> None:
        """Measure the matrix rate, before other work keeps the device busy.

        Args:
            num_steps: Steps until the end of the run.
        """
        self._num_steps = num_steps
        if num_steps >= MIN_STEPS:
            self._measure_rate()

    def shares(self, batch: VideoBatch, *, videos: float, seconds: float, waited: float) -> dict[str, float]:
        """Return the shares of an epoch by the name of their metric.

        Args:
            batch: A batch of the epoch.
            videos: Videos of a step, mean of the epoch.
            seconds: Seconds of a step, mean of the epoch.
            waited: Seconds in which a step waited for its batch, mean of the epoch.
        """
        began = time.perf_counter()
        if self._num_steps >= MIN_STEPS and not self._is_measured:
            self._is_measured = True
            self._measure(batch, seconds)
        self._spent += time.perf_counter() - began
        rate = self._rate.flop_per_second if self._rate else math.nan
        shares = {
            "matrix_share": self._flop_per_video * videos / seconds / rate,
            "bare_share": videos / seconds / self._bare_rate,
            "wait_share": waited / seconds,
        }
        return {name: share for name, share in shares.items() if math.isfinite(share)}

    def spent(self) -> float:
        """Return the seconds of the measurements since the last call."""
        spent, self._spent = self._spent, 0.0
        return spent

    def record(self) -> dict[str, Any]:
        """Return the measured numbers, for the `config.json` of a checkpoint; empty if there are none."""
        measured = {
            "useful_flop_per_video": self._flop_per_video,
            "bare_videos_per_second": self._bare_rate,
        }
        record: dict[str, Any] = {name: value for name, value in measured.items() if math.isfinite(value)}
        if self._rate is not None:
            record |= {
                "matrix_flop_per_second": self._rate.flop_per_second,
                "matrix_format": self._rate.format,
                "device": self._rate.device,
                "threads": self._rate.threads,
            }
        return {SPEED: record} if record else {}

    def _measure(self, batch: VideoBatch, seconds: float) -> None:
        assert batch.labels is not None
        count = len(batch.labels)
        if self._rate is None:
            self._measure_rate()
        with self._reported("operations of a step"):
            self._flop_per_video = useful_flop(self._experiment, self._classes, batch) / count
        repeats = min(int(_SHARE_OF_STEPS * self._num_steps), _MOST_STEPS)
        if seconds <= _LONGEST_STEP_SECONDS:
            with self._reported("speed of the bare model"):
                self._bare_rate = count / min(self._bare_seconds(batch) for _ in range(repeats))

    def _measure_rate(self) -> None:
        with self._reported("matrix rate of the device"):
            self._rate = matrix_rate(self._step.device, self._step.dtype or torch.float32, self._cache)

    def _bare_seconds(self, batch: VideoBatch) -> float:
        self._synchronize()
        began = time.perf_counter()
        self._step.gradients_alone(batch)
        self._synchronize()
        return time.perf_counter() - began

    def _synchronize(self) -> None:
        if self._step.device.type == "cuda":
            torch.cuda.synchronize(self._step.device)

    @contextlib.contextmanager
    def _reported(self, subject: str) -> Iterator[None]:
        try:
            yield
        # A run does not fail because its speed is unknown, whatever the reason: memory, a full disk, or an
        # operation of a third party's method that the meta device lacks.
        except Exception as problem:
            log.warning("the %s was not measured: %s", subject, " ".join(str(problem).split())[:300])
