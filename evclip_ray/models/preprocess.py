"""Resizing and normalisation of frames for a network."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def prepare(pixels: Tensor, size: int, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Resize frames (bicubic, antialiased, clamped to [0, 1]) and normalise each colour.

    Frames that already have the size are not resampled.

    Args:
        pixels: (B, T, 3, H, W) float in [0, 1].
        size: Side of the result in pixels.
        mean: Mean of each colour.
        std: Standard deviation of each colour.

    Returns:
        (B, T, 3, size, size).

    Raises:
        ValueError: `pixels` is not a batch of videos in floating point.
    """
    if pixels.ndim != 5 or pixels.shape[2] != 3 or not pixels.is_floating_point():
        raise ValueError(
            f"pixels must be (B, T, 3, H, W) float in [0, 1], got {tuple(pixels.shape)} {pixels.dtype}"
        )
    if pixels.shape[-2:] != (size, size):
        # Bicubic weights are partly negative and overshoot at edges, hence the clamp below.
        flat = F.interpolate(pixels.flatten(0, 1), (size, size), mode="bicubic", antialias=True)
        pixels = flat.clamp(0, 1).unflatten(0, pixels.shape[:2])
    return (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)
