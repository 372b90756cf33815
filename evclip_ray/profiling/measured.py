"""What a method on a backbone costs, measured: time, memory and energy of a step, in a process of its own.

The weights are random: the arithmetic is that of trained ones, and nothing needs to be fetched.
Everything is computed in every step; what features on disk would spare is not taken off.
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
from evclip_ray.models.frozen import RANDOM
from evclip_ray.profiling.counted import random_batch, training_loss
from evclip_ray.profiling.energy import EnergyMeter
from evclip_ray.profiling.memory import peak_bytes
from evclip_ray.training.build import autocast_dtype, build_method, pick_device
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.optim import make_optimizer

ENERGY_SECONDS = 2.0
"""Cards tell their energy some ten times a second: a few short steps would be told as nothing."""


@dataclasses.dataclass(frozen=True)
class MeasuredCost:
    """One kind of step, on one device.

    `phase`: "inference" (logits of a batch, class texts at hand) or "training" (forward, backward,
    update). `batch`: videos; seconds are of a step, `videos_per_second` of the median one.
    `rest_bytes`: held before a step (weights, and on a CPU the process); `peak_bytes`: above that.
    None: not measured, `energy_note` says why.
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
    """Measure inference, then training, at each batch size, in a fresh process.

    Raises:
        ValueError: that process was killed, most likely for its memory.
    """
    if repeats < 1 or not batch_sizes or min(batch_sizes) < 1:
        raise ConfigError(
            f"repeats and batch sizes must be at least 1, got {repeats} and {list(batch_sizes)}"
        )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_quiet) as pool:
        try:
            return pool.submit(_measure, experiment, list(classes), list(batch_sizes), repeats).result()
        except BrokenProcessPool:
            raise ValueError(
                f"measuring {experiment.method.name} on {experiment.backbone.name} was killed, most likely "
                "for its memory; measure on a larger machine, or only count"
            ) from None


def _quiet() -> None:
    # Random weights are what is meant here.
    logging.disable(logging.WARNING)


def _measure(
    experiment: ExperimentConfig, classes: list[str], batch_sizes: list[int], repeats: int
) -> list[MeasuredCost]:
    device = pick_device()
    method = build_method(_with_random_weights(experiment), classes, device=device)
    optimizer = make_optimizer(method.parameters(), experiment.optim) if method.num_trainable() else None
    dtype = autocast_dtype(experiment, device)

    def infer(size: int) -> Callable[[], None]:
        batch = dataclasses.replace(random_batch(method, experiment, size=size, device=device), labels=None)

        def run() -> None:
            method.eval()
            with torch.no_grad(), autocast(device, dtype):
                method(batch)

        return run

    def train(size: int) -> Callable[[], None]:
        batch = random_batch(method, experiment, size=size, device=device)
        labels = torch.arange(size, device=device) % len(classes)
        batch = dataclasses.replace(batch, labels=labels)

        def run() -> None:
            assert optimizer is not None
            method.train()
            with autocast(device, dtype):
                loss = training_loss(method, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

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
    # The first two runs warm up, and are not timed.
    run()
    memory = peak_bytes(run, device)
    meter, seconds = EnergyMeter(device), []
    _wait(device)
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return MeasuredCost(
        phase=phase, batch=size, repeats=repeats,
        median_seconds=float(np.median(seconds)), p95_seconds=float(np.quantile(seconds, 0.95)),
        videos_per_second=size / float(np.median(seconds)),
        rest_bytes=memory and memory[0], peak_bytes=memory and memory[1],
        joules_per_video=joules_per_video(run, meter, size=size, device=device),
        energy_note=meter.reason and f"not measured: {meter.reason}",
        device=_name(device), precision=precision,
    )  # fmt: skip


def joules_per_video(
    run: Callable[[], None], meter: EnergyMeter, *, size: int, device: torch.device
) -> float | None:
    """The energy of `run`, which handles `size` videos, over as many runs as take long enough to be told."""
    before = meter.joules()
    if before is None:
        return None
    runs, started = 0, time.perf_counter()
    while time.perf_counter() - started < ENERGY_SECONDS:
        run()
        runs += 1
        _wait(device)
    after = meter.joules()
    assert after is not None
    return (after - before) / (size * runs)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads of {os.cpu_count()}"


def _with_random_weights(experiment: ExperimentConfig) -> ExperimentConfig:
    tree = experiment.model_dump()
    tree["backbone"]["pretrained"] = RANDOM
    if experiment.method.needs_video_encoder:
        tree["method"]["video_encoder"]["weights"] = RANDOM
    return ExperimentConfig.load(tree)
