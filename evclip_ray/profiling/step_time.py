"""What a step, a validation and the frozen networks cost, measured by taking a few, before a study starts."""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from evclip_ray.metrics.scoring import autocast
from evclip_ray.models.layers.frames import Normalization, read_frames
from evclip_ray.models.methods.base import Frozen, VideoBatch
from evclip_ray.training.build import autocast_dtype, build_method, pick_device, weights_of
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import feature_specs
from evclip_ray.training.optim import make_optimizer


@dataclasses.dataclass(frozen=True)
class StepCost:
    """One training step of `batch_size` videos as a trial takes it: what is kept on disk is not computed.

    `seconds`: here; `flop`: floating-point operations (2 x MAC); `scoring`: seconds to validate a video;
    `kept`: the fields that a trial reads from disk; `frozen`: field -> seconds to make it of one view.
    """

    seconds: float
    flop: float
    scoring: float
    kept: tuple[str, ...]
    frozen: Mapping[str, float]
    num_trainable: int
    weights: dict[str, str]
    device: str


def measure_step(
    experiment: ExperimentConfig, classes: Sequence[str], *, cpus: float, repeats: int = 3
) -> StepCost:
    """Take `repeats` training steps on random pixels; the median of all but the first is the time.

    `cpus`: of one worker, as many threads are used on a CPU.
    """
    device = pick_device()
    with _threads(max(1, int(cpus))), autocast(device, autocast_dtype(experiment, device)):
        return _measure(experiment, classes, device, repeats)


def _measure(
    experiment: ExperimentConfig, classes: Sequence[str], device: torch.device, repeats: int
) -> StepCost:
    method = build_method(experiment, classes, device=device)
    optimizer = make_optimizer(method.parameters(), experiment.optim)
    size, count = method.frozen.clip.image_size, experiment.optim.batch_size
    pixels = torch.rand(count, experiment.view.num_frames, 3, size, size, device=device)
    made, frozen_seconds = _frozen_pass(experiment, method.frozen, pixels)
    kept = {name: made[name] for name in feature_specs(experiment, "train", device)}
    batch = VideoBatch(pixels, **kept)
    labels = torch.arange(count, device=device) % len(classes)

    def step() -> None:
        terms = method.losses(method(batch), labels).values()
        torch.stack([term.float() for term in terms]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with FlopCounterMode(display=False) as counter:
        step()
    seconds = statistics.median(_seconds(step, device)[1] for _ in range(max(1, repeats - 1)))
    with torch.no_grad():
        scoring = _seconds(lambda: method(batch), device)[1] / count
    return StepCost(
        seconds, float(counter.get_total_flops()), scoring, tuple(kept), frozen_seconds,
        method.num_trainable(), weights_of(method.frozen), str(device),
    )  # fmt: skip


@torch.no_grad()
def _frozen_pass(
    experiment: ExperimentConfig, frozen: Frozen, pixels: Tensor
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What the frozen networks say of the pixels, where that can be kept, and seconds a view of a video."""
    if experiment.data.bank is None:
        return {}, {}
    colours: Normalization = getattr(experiment.method, "normalization", "own")
    passes: dict[str, Callable[[], Tensor]] = {
        "frame_features": lambda: read_frames(frozen.clip, VideoBatch(pixels), colours)
    }
    encoder = frozen.video_encoder
    if encoder is not None:
        passes["video_map"] = lambda: encoder(encoder.prepare(pixels))
    made, seconds = {}, {}
    for field, run in passes.items():
        run()
        made[field], taken = _seconds(run, pixels.device)
        seconds[field] = taken / len(pixels)
    return made, seconds


def _seconds(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - started


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
