"""From pixels to what a network reads: its size, its colours."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def prepare(pixels: Tensor, size: int, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, T, 3, H, W) in [0, 1] -> (B, T, 3, size, size): resized, then normalised colour by colour.

    Bicubic with antialiasing, clamped to [0, 1]; nothing is resampled that already has its size.

    Raises:
        ValueError: not a batch of videos in floating point.
    """
    if pixels.ndim != 5 or pixels.shape[2] != 3 or not pixels.is_floating_point():
        raise ValueError(
            f"pixels must be (B, T, 3, H, W) float in [0, 1], got {tuple(pixels.shape)} {pixels.dtype}"
        )
    if pixels.shape[-2:] != (size, size):
        flat = F.interpolate(pixels.flatten(0, 1), (size, size), mode="bicubic", antialias=True)
        pixels = flat.clamp(0, 1).unflatten(0, pixels.shape[:2])
    return (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)
