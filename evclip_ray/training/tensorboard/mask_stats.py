"""Statistics of the masks of a validation pass, computed from the pass itself."""

import math

import numpy as np
import torch
from torch import Tensor

from evclip_ray.models.batch import MethodOutput, VideoBatch
from evclip_ray.training.tensorboard.images import Pixels, mask_strip

SHOWN_VIDEOS = 4
_POOL = 4


def pooled_masks(masks: Tensor) -> Tensor:
    """Average (V, H, W) masks over blocks of 4 x 4 pixels: (V, H / 4, W / 4).

    A validation pass keeps the pooled masks until the next epoch, for the drift and for the pictures.
    """
    pooled: Tensor = torch.nn.functional.avg_pool2d(masks[:, None], _POOL)
    return pooled[:, 0]


def mask_coverage(masks: Tensor) -> Tensor:
    """Return the share of pixels with p > 0.5 for each of V masks p, (V, H, W) in [0, 1]."""
    return (masks > 0.5).flatten(1).double().mean(1)


def mask_entropy(masks: Tensor) -> Tensor:
    """Return the normalised entropy of each of V masks: 1 for an even mask, 0 for a single pixel.

        -sum q log q / log(H W),  q = p / sum p

    where p is a mask, (H, W) in [0, 1], and the sums are over its pixels.
    """
    flat = masks.flatten(1).double()
    shares = flat / flat.sum(1, keepdim=True).clamp(min=np.finfo(np.float64).tiny)
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum(1)
    return entropy / math.log(flat.shape[1])


class MaskWatch:
    """Observer of validation passes over the same videos in the same order, epoch after epoch.

    It is called with every batch and its output. A video has one mask, (H, W) in [0, 1], for all its frames.
    `finish` returns the means over videos of `mask_coverage` and `mask_entropy`, which are those of the
    report, and of `mask_drift`:

        mean |p - p'|

    where p is a pooled mask and p' that of the epoch before.
    """

    def __init__(self) -> None:
        self._masks: list[Tensor] = []
        self._coverage: list[Tensor] = []
        self._entropy: list[Tensor] = []
        self._before: Tensor | None = None
        self._frames: list[Tensor] = []

    def __call__(self, batch: VideoBatch, output: MethodOutput) -> None:
        """Add the masks of one batch."""
        if output.mask is None:
            return
        masks = output.mask.detach().float()
        # Of the full mask: pooling would hide patterns of single pixels, which the method multiplies with.
        # Nothing is copied from the device before `finish`: a copy would wait for the batch.
        self._coverage.append(mask_coverage(masks))
        self._entropy.append(mask_entropy(masks))
        # Pooled first: 16 times fewer values to keep.
        self._masks.append(pooled_masks(masks))
        missing = SHOWN_VIDEOS - len(self._frames)
        # Only the first pass stores frames: later passes read the same videos in the same order.
        if self._before is None and missing > 0 and batch.pixels is not None:
            middle = batch.pixels.shape[1] // 2
            shown = batch.pixels[:missing, middle].detach()
            self._frames += list((shown * 255).round().to(torch.uint8).permute(0, 2, 3, 1))

    def finish(self) -> tuple[dict[str, float], dict[str, Pixels]]:
        """Return the statistics of the pass and the strips of its first videos; empty without masks."""
        if not self._masks:
            return {}, {}
        masks, self._masks = torch.cat(self._masks).cpu(), []
        numbers = {
            "mask_coverage": float(torch.cat(self._coverage).mean()),
            "mask_entropy": float(torch.cat(self._entropy).mean()),
        }
        self._coverage, self._entropy = [], []
        if self._before is not None:
            # Compares position by position, which relies on the fixed order of validation videos.
            numbers["mask_drift"] = float((masks - self._before).abs().mean())
        self._before = masks
        return numbers, self._strips(masks)

    def discard(self) -> None:
        """Forget a pass that was broken off."""
        self._masks, self._coverage, self._entropy = [], [], []
        if self._before is None:
            self._frames = []

    def _strips(self, masks: Tensor) -> dict[str, Pixels]:
        strips: dict[str, Pixels] = {}
        for index, frame in enumerate(self._frames):
            mask = masks[index].repeat_interleave(_POOL, 0).repeat_interleave(_POOL, 1)
            strips[f"video {index}"] = mask_strip(frame.cpu().numpy(), mask.numpy())
        return strips
