"""Base of the frozen networks, and random weights that are reproducible and never silent."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Self

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from evclip_ray.models.weight_names import RANDOM as RANDOM
from evclip_ray.records import is_random

logger = logging.getLogger(__name__)

META = "meta"
"""torch's device for tensors with a shape and without memory."""

_SEED = 0


class FrozenNetwork(nn.Module):
    """Network that keeps its loaded state when `train()` or an optimiser is called on a parent module.

    Attributes:
        name: Name of the network.
        weights: Origin of the weights: a tag such as "openai", "file:" and the SHA-256 of the file, or
            "random". An activation that is not the default of the weights follows in parentheses.
    """

    def __init__(self, *, name: str, weights: str) -> None:
        super().__init__()
        self.name = name
        self.weights = weights

    @property
    def is_random(self) -> bool:
        """Whether the weights are untrained."""
        return is_random(self.weights)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, so that batch-norm statistics and drop-path stay frozen too."""
        # A parent's `train()` visits its children, so ignoring the mode here is enough.
        return super().train(False)


@contextlib.contextmanager
def random_weights(name: str) -> Iterator[None]:
    """Seed the weights of a network that is built inside the block, equally in every process.

    The global random state is restored afterwards.
    """
    logger.warning("%s has RANDOM weights: its outputs are meaningless", name)
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also reseed the GPUs, whose state fork_rng does not restore here.
        torch.default_generator.manual_seed(_SEED)
        yield


def frozen_dtype(precision: torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the format in which frozen image and video networks are held.

    Autocast would cast every float32 weight to bfloat16 in every step: it keeps casts only of weights that
    need a gradient. Copies and casts took 16 % of a step's device time on an H200 (2026-11-27). A CPU keeps
    float32 weights, whose features earlier versions stored.

    Args:
        precision: Type for autocast; None computes in float32.
        device: Device of the networks.
    """
    is_rounded = device.type == "cuda" and precision == torch.bfloat16
    return torch.bfloat16 if is_rounded else torch.float32


def hold_in(network: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of a frozen network in place. Batch norms stay in float32.

    Kernels of batch norms read float32 parameters with rounded inputs, as under autocast, so that this costs
    no time. Those of layer norms do not on a GPU. Their parameters are rounded, and their means and variances
    are computed in float32.

    Args:
        network: Image tower or video network.
        dtype: Format from `frozen_dtype`.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    exact = [{name: value.clone() for name, value in norm.state_dict().items()} for norm in norms]
    network.to(dtype)
    for norm, tensors in zip(norms, exact, strict=True):
        norm.float().load_state_dict(tensors)


def in_own_format(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context in which a frozen network with weights of `dtype` runs.

    Without autocast where the weights are rounded: it would cast those of layer norms to float32.
    """
    return contextlib.nullcontext() if dtype == torch.float32 else without_autocast(device)


def device_name(device: torch.device) -> str:
    """Return "cpu", or "cuda" with the model of the GPU."""
    is_gpu = device.type == "cuda"
    return f"cuda {torch.cuda.get_device_name(device)}" if is_gpu else device.type


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context in which autocast is off. The meta device has no autocast."""
    if device.type == META:
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
