"""Measured cost of a method on a backbone: time, memory and energy of a step, in a separate process.

The weights are random: the arithmetic is the same as with trained weights, and nothing is downloaded. Every
step computes everything, also features that a trial would read from disk.
"""

import dataclasses
import logging
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import torch

from evclip_ray.config import ConfigError
from evclip_ray.metrics.scoring import autocast
from evclip_ray.models.batch import VideoBatch
from evclip_ray.models.frozen import RANDOM
from evclip_ray.profiling.energy import EnergyMeter
from evclip_ray.profiling.memory import peak_bytes
from evclip_ray.profiling.synthetic_step import random_batch, synchronize, timed, training_step
from evclip_ray.training.build import autocast_dtype, build_method, pick_device
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.optim import make_optimizer

ENERGY_SECONDS = 2.0
"""Duration of an energy measurement. Cards update the counter about ten times per second."""


@dataclasses.dataclass(frozen=True)
class MeasuredCost:
    """Cost of one kind of step on one device.

    Attributes:
        phase: "inference" (logits of a batch, with class texts encoded before) or "training" (forward,
            backward, update).
        batch: Videos of a step.
        repeats: Timed steps.
        median_seconds: Median duration of a step.
        p95_seconds: 95th percentile of the duration.
        videos_per_second: Rate of the median step.
        rest_bytes: Memory before a step: weights, and on a CPU the process. None if not measured.
        peak_bytes: Memory that a step needs above `rest_bytes`. None if not measured.
        joules_per_video: Energy, None if not measured.
        energy_note: Reason why the energy was not measured, or None.
        device: Name of the device.
        precision: Type of the forward pass.
    """

    phase: str
    batch: int
    repeats: int
    median_seconds: float
    p95_seconds: float
    videos_per_second: float
    rest_bytes: int | None
    peak_bytes: int | None
    joules_per_video: float | None
    energy_note: str | None
    device: str
    precision: str


def measure_cost(
    experiment: ExperimentConfig,
    classes: Sequence[str],
    *,
    batch_sizes: Sequence[int] = (1,),
    repeats: int = 10,
) -> list[MeasuredCost]:
    """Measure inference, then training, in a new process.

    Args:
        experiment: The experiment. Its data and weights are not read.
        classes: Names of the classes.
        batch_sizes: Videos of a step; every size is measured.
        repeats: Timed steps of each phase and size.

    Raises:
        ConfigError: `repeats` or a batch size is less than 1.
        ValueError: the process was killed, most likely because the memory is too small.
    """
    if repeats < 1 or not batch_sizes or min(batch_sizes) < 1:
        raise ConfigError(
            f"repeats and batch sizes must be at least 1, got {repeats} and {list(batch_sizes)}"
        )
    # A new process: memory of earlier work does not count, and a kill for lack of memory does not end this
    # process. A forked process could not use CUDA.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_quiet) as pool:
        try:
            return pool.submit(_measure, experiment, list(classes), list(batch_sizes), repeats).result()
        except BrokenProcessPool:
            raise ValueError(
                f"measuring {experiment.method.name} on {experiment.backbone.name} was killed, most likely "
                "because the memory is too small; measure on a larger machine, or only count"
            ) from None


def _quiet() -> None:
    # Random weights are intended here and need no warning.
    logging.disable(logging.WARNING)


def _measure(
    experiment: ExperimentConfig, classes: list[str], batch_sizes: list[int], repeats: int
) -> list[MeasuredCost]:
    device = pick_device()
    method = build_method(_with_random_weights(experiment), classes, device=device)
    optimizer = make_optimizer(method.parameters(), experiment.optim) if method.num_trainable() else None
    dtype = autocast_dtype(experiment, device)

    def make_batch(size: int) -> VideoBatch:
        return random_batch(method, experiment, size=size, num_classes=len(classes), device=device)

    def infer(size: int) -> Callable[[], None]:
        # The batch is created once, outside of the timed function.
        batch = dataclasses.replace(make_batch(size), labels=None)

        def run() -> None:
            method.eval()
            with torch.no_grad(), autocast(device, dtype):
                method(batch)

        return run

    def train(size: int) -> Callable[[], None]:
        batch = make_batch(size)

        def run() -> None:
            assert optimizer is not None
            method.train()
            training_step(method, batch, optimizer, dtype)

        return run

    phases = {"inference": infer} | ({"training": train} if optimizer else {})
    precision = str(dtype or torch.float32).removeprefix("torch.")
    return [
        _time(make(size), phase=phase, size=size, repeats=repeats, device=device, precision=precision)
        for phase, make in phases.items()
        for size in batch_sizes
    ]


def _time(
    run: Callable[[], None], *, phase: str, size: int, repeats: int, device: torch.device, precision: str
) -> MeasuredCost:
    # Two runs warm up and are not timed: allocators, kernels chosen at the first call.
    run()
    memory = peak_bytes(run, device)
    meter = EnergyMeter(device)
    synchronize(device)
    seconds = [timed(run, device)[1] for _ in range(repeats)]
    return MeasuredCost(
        phase=phase,
        batch=size,
        repeats=repeats,
        median_seconds=float(np.median(seconds)),
        p95_seconds=float(np.quantile(seconds, 0.95)),
        videos_per_second=size / float(np.median(seconds)),
        rest_bytes=memory and memory[0],
        peak_bytes=memory and memory[1],
        joules_per_video=joules_per_video(run, meter, size=size, device=device),
        energy_note=meter.reason and f"not measured: {meter.reason}",
        device=_name(device),
        precision=precision,
    )


def joules_per_video(
    run: Callable[[], None], meter: EnergyMeter, *, size: int, device: torch.device
) -> float | None:
    """Return the energy of `run` per video, or None if the device does not report it.

    `run` is repeated for ENERGY_SECONDS.

    Args:
        run: Step to measure.
        meter: Energy counter of the device.
        size: Videos of one step.
        device: Device of the step.
    """
    before = meter.joules()
    if before is None:
        return None
    runs, started = 0, time.perf_counter()
    while time.perf_counter() - started < ENERGY_SECONDS:
        run()
        runs += 1
        synchronize(device)
    after = meter.joules()
    assert after is not None
    return (after - before) / (size * runs)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads of {os.cpu_count()}"


def _with_random_weights(experiment: ExperimentConfig) -> ExperimentConfig:
    tree = experiment.model_dump()
    # Through the plain tree, so that the changed settings are validated again.
    tree["backbone"]["pretrained"] = RANDOM
    if experiment.method.needs_video_encoder:
        tree["method"]["video_encoder"]["weights"] = RANDOM
    return ExperimentConfig.load(tree)
