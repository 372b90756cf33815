"""Forward pass and loss of a training step, and that of validation, eager or compiled by `torch.compile`.

The forward pass of a method and its loss are one graph: mask generator, masking and normalisation, frozen
image tower, pooling and loss, and the video network where its map is not cached. On an H200, a step of
EV-CLIP on ViT-B/16 with 16 videos and a cached map took 32.8 ms compiled and 59.1 ms eager. The first took
56 s (2026-11-27).

All trials of a process share the compiled code: its guards check shapes and settings, and not the method.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from evclip_ray.config import ConfigError
from evclip_ray.metrics.scoring import autocast
from evclip_ray.models.batch import MethodOutput, VideoBatch
from evclip_ray.models.methods.base import Method

log = logging.getLogger(__name__)

CompileSetting = Literal["auto", "on", "off"]

REPAYING_STEPS = 2500
"""Steps of a run that repay the time of compiling: 56 s at 26 ms per step, rounded up. The same number holds
for the batches of validation: compiling their pass and the gain of one are both smaller, by an unmeasured
factor."""

_Result = TypeVar("_Result")
_BACKEND = "inductor"
_LARGEST_NUMBER_OF_GRAPHS = 64
"""Graphs that a process keeps. Each combination of prompt sizes needs two, for its two sizes of a batch."""


def forward_and_losses(
    model: nn.Module,
    method: Method,
    batch: VideoBatch,
    labels: Tensor,
    device: torch.device,
    dtype: torch.dtype | None,
) -> tuple[MethodOutput, dict[str, Tensor]]:
    """Return the output of a method for a batch and its loss terms.

    Args:
        model: The method, or its wrapper for several workers.
        method: The method.
        batch: Videos.
        labels: (B,) class indices.
        device: Device of the method.
        dtype: Type for autocast; None computes in float32.
    """
    with autocast(device, dtype):
        # Only the forward pass goes through the DDP wrapper, which prepares the reduction of gradients there.
        output = model(batch)
    # Outside of autocast, so that the matrix products of a loss stay in float32.
    return output, method.losses(output, labels)


Forward = Callable[..., tuple[MethodOutput, dict[str, Tensor]]]
"""Function with the arguments of `forward_and_losses`."""


def is_compiled(
    setting: CompileSetting,
    device: torch.device,
    *,
    num_steps: int,
    num_workers: int = 1,
    has_fixed_shapes: bool = True,
) -> bool:
    """Return whether a run compiles its step.

    Args:
        setting: "auto" compiles on a GPU if the run has at least `REPAYING_STEPS` steps, and never on a CPU.
        device: Device of the method.
        num_steps: Steps of the run, over all epochs.
        num_workers: Training processes of the run. A group of workers trains eagerly with "auto".
        has_fixed_shapes: As `Method.has_fixed_shapes`. A method without them trains eagerly with "auto".

    Raises:
        ConfigError: The setting is "on", but there are several workers or shapes differ between steps.
    """
    if setting == "on" and not has_fixed_shapes:
        raise ConfigError(
            "compile=on: the method encodes the texts of each batch's classes, whose number differs, so that "
            "every number would be compiled; set compile=auto"
        )
    if setting == "on" and num_workers > 1:
        raise ConfigError(
            f"compile=on: a run on {num_workers} workers is not compiled; set compile=auto, or --workers 1"
        )
    can_repay = device.type == "cuda" and num_workers == 1 and has_fixed_shapes
    return setting == "on" or (setting == "auto" and can_repay and num_steps >= REPAYING_STEPS)


def forward_alone(
    method: Method, batch: VideoBatch, device: torch.device, dtype: torch.dtype | None
) -> MethodOutput:
    """Return the output of a method for a batch.

    Args:
        method: The method.
        batch: Videos.
        device: Device of the method.
        dtype: Type for autocast; None computes in float32.
    """
    with autocast(device, dtype):
        output: MethodOutput = method(batch)
    return output


@functools.cache
def compiled_forward() -> Forward:
    """Return the compiled `forward_and_losses`, one for the process."""
    return _compiled(forward_and_losses)


@functools.cache
def compiled_forward_alone() -> Callable[..., MethodOutput]:
    """Return the compiled `forward_alone`, one for the process."""
    return _compiled(forward_alone)


def _compiled(function: Callable[..., _Result]) -> Callable[..., _Result]:
    # Static shapes: a run has batches of two sizes at most, and a graph for any size is slower.
    compiled: Callable[..., _Result] = torch.compile(function, dynamic=False, backend=_BACKEND)

    @functools.wraps(function)
    def call(*args: Any) -> _Result:
        # Beyond the limit torch runs eagerly, with a warning for every step. Set for each call, because the
        # configuration holds for one thread only, and Tune runs each trial in a thread of its own. In torch
        # 2.11, `torch.compile` does not take the limit as an argument.
        torch._dynamo.config.recompile_limit = _LARGEST_NUMBER_OF_GRAPHS
        return compiled(*args)

    return call


_failures: list[str] = []
"""Reason of the first failure to compile in this process. Later runs do not try again."""


def can_compile() -> bool:
    """Return whether no compilation has failed in this process."""
    return not _failures


def is_compiler_error(error: Exception) -> bool:
    """Return whether an error of a step comes from the compiler and not from the computation."""
    # Code of the backward pass is made by Inductor alone, whose errors need no wrapper of Dynamo.
    is_inductor = type(error).__module__.startswith("torch._inductor")
    return is_inductor or isinstance(error, torch._dynamo.exc.TorchDynamoException)


def give_up(error: Exception, setting: CompileSetting) -> None:
    """Go on without compiling after a failure, with one warning.

    Args:
        error: Error of the compiler.
        setting: Setting of the run.

    Raises:
        ConfigError: The setting is "on".
    """
    reason = " ".join(str(error).split())[:300]
    if setting == "on":
        raise ConfigError(
            f"compile=on: the step could not be compiled ({reason}). "
            "Install a C++ compiler (and Triton for a GPU), or set compile=auto"
        ) from error
    _failures.append(reason)
    log.warning("the step could not be compiled and runs eagerly: %s", reason)
