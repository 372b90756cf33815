"""What the masks of a validation pass are like, seen as they go by: nothing is computed twice."""

import math

import numpy as np
import torch
from torch import Tensor

from evclip_ray.models.methods.base import MethodOutput, VideoBatch
from evclip_ray.training.tensorboard.images import Pixels, mask_strip

SHOWN_VIDEOS = 4


class MaskWatch:
    """Called with every batch and its output of a pass over the same videos, epoch after epoch.

    A video has one mask, (H, W) in [0, 1], for all its frames. Of the masks p of V videos:

        coverage   share of pixels where p > 0.5
        entropy    -sum q log q / log(H W), q = p / sum p: 1 looks everywhere alike, 0 at one pixel
        drift      mean |p - p of the epoch before|

    each the mean over videos.
    """

    def __init__(self) -> None:
        self._masks: list[Tensor] = []
        self._before: Tensor | None = None
        self._frames: list[Tensor] = []

    def __call__(self, batch: VideoBatch, output: MethodOutput) -> None:
        """Look at the masks of one batch."""
        if output.mask is None:
            return
        # A sixteenth of the pixels tells as much of a smooth map, and is kept until the next epoch.
        small = torch.nn.functional.avg_pool2d(output.mask.detach().float()[:, None], 4)[:, 0]
        self._masks.append(small.cpu())
        missing = SHOWN_VIDEOS - len(self._frames)
        if self._before is None and missing > 0 and batch.pixels is not None:
            middle = batch.pixels.shape[1] // 2
            shown = batch.pixels[:missing, middle].detach()
            self._frames += list((shown * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu())

    def finish(self) -> tuple[dict[str, float], dict[str, Pixels]]:
        """The statistics of the pass and the strips of its first videos; empty where there are no masks."""
        if not self._masks:
            return {}, {}
        masks, self._masks = torch.cat(self._masks), []
        numbers = _statistics(masks)
        if self._before is not None:
            numbers["mask_drift"] = float((masks - self._before).abs().mean())
        self._before = masks
        return numbers, self._strips(masks)

    def _strips(self, masks: Tensor) -> dict[str, Pixels]:
        found: dict[str, Pixels] = {}
        for place, frame in enumerate(self._frames):
            whole = masks[place].repeat_interleave(4, 0).repeat_interleave(4, 1)
            found[f"video {place}"] = mask_strip(frame.numpy(), whole.numpy())
        return found


def _statistics(masks: Tensor) -> dict[str, float]:
    flat = masks.flatten(1).double()
    shares = flat / flat.sum(1, keepdim=True).clamp(min=np.finfo(np.float64).tiny)
    entropy = -torch.special.xlogy(shares, shares).sum(1) / math.log(flat.shape[1])
    return {"mask_coverage": float((flat > 0.5).double().mean()), "mask_entropy": float(entropy.mean())}
