"""Mixup: each video of a batch overlaid with another one, and answering for both labels.

    x' = w x + (1 - w) x[p],   loss = w loss(x', y) + (1 - w) loss(x', y[p])

where p is a permutation of the batch and w ~ Beta(alpha, alpha), one draw a batch (Zhang et al., ICLR
2018, section 2). The second form needs no soft labels, so any loss on class indices takes it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Mixed(NamedTuple):
    """`pixels`: (B, T, 3, H, W), mixed. `partners`: (B,) int64, p. `share`: w, in [0, 1]."""

    pixels: Tensor
    partners: Tensor
    share: float

    def loss_terms(self, own: Mapping[str, Tensor], partners: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each loss term of both labels, by their share; a term without a label keeps its value."""
        return {name: self.share * own[name] + (1 - self.share) * partners[name] for name in own}


def mix(pixels: Tensor, *, alpha: float, generator: torch.Generator) -> Mixed:
    """Mix a batch (B, T, 3, H, W) with itself; every draw is from `generator`, a CPU one."""
    order = torch.randperm(len(pixels), generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    partners = order.to(pixels.device)
    return Mixed(torch.lerp(pixels[partners], pixels, share), partners, share)
