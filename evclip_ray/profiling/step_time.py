"""Measured duration of a training step, a validation and the frozen networks, before a study starts."""

import contextlib
import dataclasses
import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from evclip_ray.data.transforms import crop_batch, to_device
from evclip_ray.metrics.scoring import autocast
from evclip_ray.models.batch import Frozen, VideoBatch
from evclip_ray.models.layers.frames import read_frames
from evclip_ray.models.methods.base import Method
from evclip_ray.models.setting_types import Normalization
from evclip_ray.profiling.flops import flop_counter
from evclip_ray.profiling.synthetic_step import random_batch, timed, training_step
from evclip_ray.training.build import autocast_dtype, build_method, pick_device, weights_of
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import feature_specs, needs_pixels
from evclip_ray.training.matrix_rate import MatrixRate, matrix_rate
from evclip_ray.training.optim import make_optimizer
from evclip_ray.training.resources import GpuMemory
from evclip_ray.training.step_graphs import (
    REPAYING_STEPS,
    is_launch_bound,
    may_use_graphs,
    step_bytes,
    timed_launches,
)
from evclip_ray.training.useful_flop import useful_flop

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Cost of one training step as a trial takes it: cached features are read, not computed.

    Attributes:
        seconds: Duration of a step of `batch_size` videos on this machine, without its input.
        flop: Floating-point operations that a step needs, 2 per multiply-accumulate.
        scoring: Seconds to validate one video.
        kept: Fields that a trial reads from disk.
        frozen: Seconds to compute each field for one view of one video.
        num_trainable: Trained parameters.
        weights: Origin of the weights by network.
        device: Device of the measurement.
        memory: Memory of a trial on a GPU; None on a CPU.
        videos: Videos of a step; 0 if it is not known.
        input_seconds: Seconds to cut the views of a step from frames in memory. The disk is left out.
        rate: Rate of matrix products of the device; None if it was not measured.
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
    videos: int = 0
    input_seconds: float = 0.0
    rate: MatrixRate | None = None

    @property
    def matrix_share(self) -> float | None:
        """Operations per second of a step, relative to matrix products; None if these were not measured."""
        return None if self.rate is None else self.flop / self.seconds / self.rate.flop_per_second

    @property
    def wait_share(self) -> float:
        """Share of a step and its input that is spent on the input."""
        return self.input_seconds / (self.seconds + self.input_seconds)


def measure_step(
    experiment: ExperimentConfig, classes: Sequence[str], *, cpus: float, cache: Path | None = None
) -> StepCost:
    """Take three training steps on random pixels and return the median duration of all but the first.

    Args:
        experiment: Experiment of a trial.
        classes: Names of the classes.
        cpus: CPUs of one worker; the number of threads on a CPU.
        cache: Cache folder, for the matrix rate; None stores nothing.
    """
    with _threads(max(1, int(cpus))):
        return _measure(experiment, classes, pick_device(), cache)


def _measure(
    experiment: ExperimentConfig, classes: Sequence[str], device: torch.device, cache: Path | None
) -> StepCost:
    # Before the networks take memory.
    rate = matrix_rate(device, autocast_dtype(experiment, device) or torch.float32, cache)
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

    # The first step warms up.
    step()
    seconds = statistics.median(timed(step, device)[1] for _ in range(2))
    graph_bytes = _graph_bytes(method, experiment, step)
    unlabelled = dataclasses.replace(batch, labels=None)
    with torch.no_grad(), autocast(device, dtype):
        scoring = timed(lambda: method(unlabelled), device)[1] / count
        if device.type == "cuda" and experiment.optim.eval_batch_size > count:
            # A validation batch may need more memory than a step.
            method(_repeated(unlabelled, experiment.optim.eval_batch_size))
    return StepCost(
        seconds,
        _flop(experiment, classes, batch, step),
        scoring,
        tuple(cached),
        frozen_seconds,
        method.num_trainable(),
        weights_of(method.frozen),
        str(device),
        _gpu_memory(device, graph_bytes),
        count,
        _input_seconds(experiment, method.frozen.clip.image_size, device),
        rate,
    )


def _flop(
    experiment: ExperimentConfig, classes: Sequence[str], batch: VideoBatch, step: Callable[[], object]
) -> float:
    """Return the operations of a step; with those of recomputed activations if `useful_flop` fails."""
    try:
        return useful_flop(experiment, classes, batch)
    # A third party's method may read values, which tensors without memory lack. A plan needs no such tensors.
    except Exception as problem:
        log.info("the operations of a step are counted in the step itself: %s", problem)
    with flop_counter() as counter:
        step()
    return float(counter.get_total_flops())


def _input_seconds(experiment: ExperimentConfig, size: int, device: torch.device) -> float:
    """Return the seconds to cut the views of a step, of `size` pixels, from stored frames in memory."""
    if not needs_pixels(experiment):
        return 0.0
    data, view, count = experiment.data, experiment.view, experiment.optim.batch_size
    height, width = view.typical_size
    frames = torch.randint(256, (count, view.num_frames, height, width, 3), dtype=torch.uint8)

    def cut() -> Tensor:
        random = torch.Generator().manual_seed(0)
        return crop_batch(to_device(frames, device), size=size, augment=data.augment, generator=random)

    # The first call warms up.
    return min(timed(cut, device)[1] for _ in range(2))


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


def _graph_bytes(method: Method, experiment: ExperimentConfig, step: Callable[[], object]) -> int:
    """Return the memory that the CUDA graph of a step keeps beside that of validation; 0 without graphs."""
    device = next(method.parameters()).device
    may_use = may_use_graphs(
        experiment, device, num_steps=REPAYING_STEPS, has_fixed_shapes=method.has_fixed_shapes
    )
    if may_use and is_launch_bound([timed_launches(step)[1] for _ in range(3)]):
        return step_bytes()
    return 0


def _gpu_memory(device: torch.device, graph_bytes: int) -> GpuMemory | None:
    if device.type != "cuda":
        return None
    # What the allocator reserved counts, and not what tensors used: it is missing for other processes.
    needed = torch.cuda.max_memory_reserved(device) + graph_bytes
    return GpuMemory(needed, torch.cuda.get_device_properties(device).total_memory)


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
