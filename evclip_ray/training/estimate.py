"""What a step costs, measured by taking two, before a study starts."""

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from evclip_ray.evaluation.evaluate import autocast
from evclip_ray.models.methods.base import VideoBatch
from evclip_ray.training.build import autocast_dtype, build_method, pick_device, weights_of
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.optim import make_optimizer


@dataclasses.dataclass(frozen=True)
class StepCost:
    """One training step of `batch_size` videos: seconds here, floating-point operations (2 x MAC)."""

    seconds: float
    flop: float
    num_trainable: int
    weights: dict[str, str]
    device: str


def measure_step(experiment: ExperimentConfig, classes: Sequence[str], *, repeats: int = 3) -> StepCost:
    """Take `repeats` training steps on random pixels; the median of all but the first is the time."""
    device = pick_device()
    method = build_method(experiment, classes, device=device)
    optimizer = make_optimizer(method.parameters(), experiment.optim)
    size, batch = method.frozen.clip.image_size, experiment.optim.batch_size
    pixels = torch.rand(batch, experiment.view.num_frames, 3, size, size, device=device)
    labels = torch.arange(batch, device=device) % len(classes)
    seconds = []
    counter = FlopCounterMode(display=False)
    for repeat in range(repeats):
        started = time.perf_counter()
        with counter if repeat == 0 else contextlib.nullcontext():
            with autocast(device, autocast_dtype(experiment, device)):
                output = method(VideoBatch(pixels))
            torch.stack([term.float() for term in method.losses(output, labels).values()]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return StepCost(
        statistics.median(seconds[1:]), float(counter.get_total_flops()),
        method.num_trainable(), weights_of(method.frozen), str(device),
    )  # fmt: skip
