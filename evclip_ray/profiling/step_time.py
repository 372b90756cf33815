"""Measured duration of a training step, a validation and the frozen networks, before a study starts."""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from evclip_ray.metrics.scoring import autocast
from evclip_ray.models.batch import Frozen, VideoBatch
from evclip_ray.models.layers.frames import read_frames
from evclip_ray.models.setting_types import Normalization
from evclip_ray.profiling.synthetic_step import random_batch, timed, training_step
from evclip_ray.training.build import autocast_dtype, build_method, pick_device, weights_of
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import feature_specs
from evclip_ray.training.optim import make_optimizer
from evclip_ray.training.resources import GpuMemory


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Cost of one training step as a trial takes it: cached features are read, not computed.

    Attributes:
        seconds: Duration of a step of `batch_size` videos on this machine.
        flop: Floating-point operations of a step, 2 per multiply-accumulate.
        scoring: Seconds to validate one video.
        kept: Fields that a trial reads from disk.
        frozen: Seconds to compute each field for one view of one video.
        num_trainable: Trained parameters.
        weights: Origin of the weights by network.
        device: Device of the measurement.
        memory: Memory of a trial on a GPU; None on a CPU.
    """

    seconds: float
    flop: float
    scoring: float
    kept: tuple[str, ...]
    frozen: Mapping[str, float]
    num_trainable: int
    weights: dict[str, str]
    device: str
    memory: GpuMemory | None = None


def measure_step(experiment: ExperimentConfig, classes: Sequence[str], *, cpus: float) -> StepCost:
    """Take three training steps on random pixels and return the median duration of all but the first.

    Args:
        experiment: Experiment of a trial.
        classes: Names of the classes.
        cpus: CPUs of one worker; the number of threads on a CPU.
    """
    with _threads(max(1, int(cpus))):
        return _measure(experiment, classes, pick_device())


def _measure(experiment: ExperimentConfig, classes: Sequence[str], device: torch.device) -> StepCost:
    method = build_method(experiment, classes, device=device)
    optimizer = make_optimizer(method.parameters(), experiment.optim)
    dtype, count = autocast_dtype(experiment, device), experiment.optim.batch_size
    batch = random_batch(method, experiment, size=count, num_classes=len(classes), device=device)
    assert batch.pixels is not None
    with autocast(device, dtype):
        features, frozen_seconds = _frozen_pass(experiment, method.frozen, batch.pixels)
    # The trial reads these from disk, so the measured step must not compute them.
    cached = {name: features[name] for name in feature_specs(experiment, "train", device)}
    batch = dataclasses.replace(batch, **cached)
    del features
    if device.type == "cuda":
        # The frozen networks ran on the batch, which a trial does not do.
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)

    def step() -> None:
        training_step(method, batch, optimizer, dtype)

    # The first step warms up and is counted; the counter would slow down a timed one.
    with FlopCounterMode(display=False) as counter:
        step()
    seconds = statistics.median(timed(step, device)[1] for _ in range(2))
    unlabelled = dataclasses.replace(batch, labels=None)
    with torch.no_grad(), autocast(device, dtype):
        scoring = timed(lambda: method(unlabelled), device)[1] / count
        if device.type == "cuda" and experiment.optim.eval_batch_size > count:
            # A validation batch may need more memory than a step.
            method(_repeated(unlabelled, experiment.optim.eval_batch_size))
    return StepCost(
        seconds,
        float(counter.get_total_flops()),
        scoring,
        tuple(cached),
        frozen_seconds,
        method.num_trainable(),
        weights_of(method.frozen),
        str(device),
        _gpu_memory(device),
    )


def _repeated(batch: VideoBatch, size: int) -> VideoBatch:
    """Return `size` videos, with those of the batch in turn."""
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    rows = {
        name: torch.arange(size, device=value.device) % len(value)
        for name, value in fields.items()
        if value is not None
    }
    return VideoBatch(
        **{name: value if value is None else value[rows[name]] for name, value in fields.items()}
    )


def _gpu_memory(device: torch.device) -> GpuMemory | None:
    if device.type != "cuda":
        return None
    # What the allocator reserved counts, and not what tensors used: it is missing for other processes.
    return GpuMemory(
        torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
    )


@torch.no_grad()
def _frozen_pass(
    experiment: ExperimentConfig, frozen: Frozen, pixels: Tensor
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the cacheable features of the pixels and the seconds per view, both by field."""
    if experiment.data.bank is None:
        return {}, {}
    colours: Normalization = getattr(experiment.method, "normalization", "own")
    passes: dict[str, Callable[[], Tensor]] = {
        "frame_features": lambda: read_frames(frozen.clip, VideoBatch(pixels), colours)
    }
    encoder = frozen.video_encoder
    if encoder is not None:
        passes["video_map"] = lambda: encoder(encoder.prepare(pixels))
    features, seconds = {}, {}
    for field, run in passes.items():
        # Warm-up: the first call allocates memory and selects kernels.
        run()
        features[field], duration = timed(run, pixels.device)
        seconds[field] = duration / len(pixels)
    return features, seconds


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    # The number of threads is global to the process; it is restored for the caller.
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
