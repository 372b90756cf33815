"""Frames of a corpus as training input: random access, random crops and brightness."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_SMALLEST_CROP = 0.85
_SHIFT = 1 / 12
_BRIGHTNESS = 0.15


class FrameStore:
    """Frames (N, T, S, S, 3) uint8, on the GPU if training runs there, else in a memory map.

    Args:
        frames: Memory map of the frames.
        device: Device of the batches.
    """

    def __init__(self, frames: NDArray[np.uint8], device: torch.device) -> None:
        self.device = device
        # A corpus of 7 GB fits on a GPU, and copying it once is faster than copying every batch.
        self._frames: Any = _to_device(frames, device) if device.type == "cuda" else frames

    def __getitem__(self, indices: NDArray[np.int64]) -> Tensor:
        """Return the frames (B, T, S, S, 3) uint8 of B stills or clips."""
        if isinstance(self._frames, Tensor):
            return self._frames[sent(indices, self.device)]
        return torch.from_numpy(self._frames[indices])


def _to_device(frames: NDArray[np.uint8], device: torch.device) -> Tensor:
    result = torch.empty(frames.shape, dtype=torch.uint8, device=device)
    step = max(1, (1 << 28) // max(1, frames[0].nbytes))
    for start in range(0, len(frames), step):
        result[start : start + step] = torch.from_numpy(np.array(frames[start : start + step])).to(device)
    return result


def sent(values: NDArray[Any], device: torch.device) -> Tensor:
    """Return a small array on a device. The host does not wait for the work before it."""
    return torch.from_numpy(values).to(device, non_blocking=True)


class Normalisation:
    """Normalisation of each colour as `preprocess.prepare` does it, with the numbers kept on the device.

    Args:
        mean: Mean of each colour.
        std: Standard deviation of each colour.
        device: Device of the frames.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self._mean = torch.tensor(mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(std, device=device).view(3, 1, 1)

    def __call__(self, frames: Tensor) -> Tensor:
        """Return frames (B, T, 3, S, S) in [0, 1] in the numbers that a network reads."""
        return (frames - self._mean) / self._std


def scaled(frames: Tensor) -> Tensor:
    """Return frames (B, T, S, S, 3) uint8 as (B, T, 3, S, S) float in [0, 1]."""
    return frames.permute(0, 1, 4, 2, 3).float() / 255


class Augmentation:
    """Random crops and brightness of a batch. All frames of a clip get the same change.

    A crop has 85 to 100 % of the side and reaches at most 4 of 96 pixels beyond the frame, where the
    border is repeated. The brightness changes by at most 15 %. Frames are never flipped, because "left" is
    left in the picture.

    Args:
        count: Number of stills or clips.
        random: Source of the crops and the brightness, on the CPU for every device.
        device: Device of the frames.
    """

    def __init__(self, count: int, random: np.random.Generator, device: torch.device) -> None:
        side_share = random.uniform(_SMALLEST_CROP, 1, count)
        reach = 1 - side_share + _SHIFT
        maps = np.zeros((count, 2, 3), np.float32)
        maps[:, 0, 0] = maps[:, 1, 1] = side_share
        maps[:, :, 2] = random.uniform(-1, 1, (count, 2)) * reach[:, None]
        bright = random.uniform(1 - _BRIGHTNESS, 1 + _BRIGHTNESS, count).astype(np.float32)
        self._maps = sent(maps, device)
        self._bright = sent(bright, device).view(-1, 1, 1, 1)

    def frames(self, frames: Tensor) -> Tensor:
        """Return the changed frames (B, T, 3, S, S) in [0, 1] of frames (B, T, S, S, 3) uint8."""
        pixels = scaled(frames)
        moved = self._cropped(pixels.flatten(1, 2), "border") * self._bright
        return moved.clamp(0, 1).view(pixels.shape)

    def shares(self, shares: Tensor) -> Tensor:
        """Return the shares (B, T, h, w) of the cells after the crop, interpolated."""
        return self._cropped(shares, "zeros")

    def _cropped(self, values: Tensor, padding: str) -> Tensor:
        grid = F.affine_grid(self._maps, list(values.shape), align_corners=False)
        return F.grid_sample(values, grid, padding_mode=padding, align_corners=False)
