"""What the frozen networks share: they never train, and random weights are seeded and never silent."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Self

import torch
from torch import nn

logger = logging.getLogger(__name__)

RANDOM = "random"
"""The name of untrained weights, which must be asked for."""

META = "meta"
"""torch's device of tensors that have a shape and no memory."""

_SEED = 0


class FrozenNetwork(nn.Module):
    """A network that stays as it was loaded, whatever `train()` or an optimiser is called on.

    `name`: of the network; `weights`: where they come from: a tag such as "openai", "file:" and
    the SHA-256 of the file, or "random".
    """

    def __init__(self, *, name: str, weights: str) -> None:
        super().__init__()
        self.name = name
        self.weights = weights

    @property
    def is_random(self) -> bool:
        """Whether the weights were never trained."""
        return self.weights == RANDOM

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: batch-norm statistics and drop-path are part of what is frozen."""
        return super().train(False)


@contextlib.contextmanager
def random_weights(name: str) -> Iterator[None]:
    """Where a network called `name` is built with weights that are the same in every process.

    The global random state is left as it was.
    """
    logger.warning("%s has RANDOM weights: nothing it computes means anything", name)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also reseed the accelerators, that fork_rng leaves out here.
        torch.default_generator.manual_seed(_SEED)
        yield


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Where autocast, if it is on, is off; the meta device has none."""
    if device.type == META:
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
