"""Training step on random pixels, and its timer: shared by everything that counts or measures a step."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch

from evclip_ray.metrics.scoring import autocast
from evclip_ray.models.batch import VideoBatch
from evclip_ray.models.methods.base import Method
from evclip_ray.training.experiment import ExperimentConfig

T = TypeVar("T")


def random_batch(
    method: Method, experiment: ExperimentConfig, *, size: int, num_classes: int, device: torch.device
) -> VideoBatch:
    """Return a labelled batch of `size` videos of random pixels, at the image size of the backbone."""
    side = method.frozen.clip.image_size
    pixels = torch.rand(size, experiment.view.num_frames, 3, side, side, device=device)
    # Labels cycle through the classes: a batch then has as many different classes as possible.
    labels = torch.arange(size, device=device) % num_classes
    return VideoBatch(pixels, labels=labels, classes=torch.arange(min(size, num_classes), device=device))


def training_loss(method: Method, batch: VideoBatch) -> torch.Tensor:
    """Return the sum of a method's losses on a labelled batch."""
    assert batch.labels is not None
    terms = method.losses(method(batch), batch.labels)
    return torch.stack([term.float() for term in terms.values()]).sum()


def training_step(
    method: Method, batch: VideoBatch, optimizer: torch.optim.Optimizer, dtype: torch.dtype | None
) -> None:
    """Take one training step.

    Args:
        method: Method in training mode.
        batch: Labelled batch.
        optimizer: Optimiser of the trained parameters.
        dtype: Type of the autocast forward pass, None for float32.
    """
    assert batch.labels is not None
    with autocast(batch.labels.device, dtype):
        loss = training_loss(method, batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def timed(run: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Return the result of `run` and its duration in seconds, until the device has finished."""
    started = time.perf_counter()
    result = run()
    # CUDA kernels run asynchronously: without the wait only their launch would be timed.
    synchronize(device)
    return result, time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
