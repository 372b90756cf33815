"""Mask prompt of EV-CLIP (arXiv 2604.22595): from the video map to one mask per video.

    p    = softmax(sharpness * scores)                     over the pixels of a video, eq. 11
    mask = (p - min p) / (max p - min p + eps)

where
    scores      one number per pixel, (32 h, 32 w): the map squeezed over time, then enlarged 32 times in
                three expansions with Swin blocks after the first two. A map with a stride of 16 pixels (ours,
                the small world's) is enlarged 16 times
    sharpness   trained scalar, 1 at the start
    eps         1e-8

With 224 x 224 pixels an even map has p = 2e-5, so eps is not negligible: a mask of nearly equal scores stays
close to 0.

The published mask starts as noise, which takes a small CLIP to chance. The open start (ours) applies:

    applied = 1 - g (1 - mask)
    g       = sigmoid(strength_logit)

where
    strength_logit  trained scalar, 0 at the start, so that g starts at 0.5

The applied mask is in [1 - g, 1]. It ranks the pixels as the mask does, so average precision is the same.
With the open start, the gradient takes min p and max p as constants. A generator that was trained on true
masks of the small world (256 videos, squared error) stayed at the average precision of the base share, 0.13,
with the published gradient; with constants it reached 0.46 after 120 steps (2026-11-27).
"""

import math

import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlock

from evclip_ray.models.setting_types import MaskStart

EPS = 1e-8
_GROWTHS = {32: (2, 4, 4), 16: (2, 2, 4)}
"""Factors of the three expansions by the stride of the map in pixels. A stride of 32 is published."""
_SMALLEST_HEAD = 4
_HEAD_DIVISOR = 3


class MaskGenerator(nn.Module):
    """Generator of the mask prompt.

    Args:
        dim: D_z, channels of the video map.
        map_size: (h, w).
        stride: Side of a position of the map in pixels, 32 or 16.
        num_frames: T; the generator has weights over time and is bound to it.
        width: Channels after the first expansion; a quarter after the second, a sixteenth after the third.
            None takes D_z / 2, rounded up to a width that the heads divide.
        depth: Swin blocks per stage; every second block has shifted windows.
        heads: Attention heads of a block.
        window: Side of an attention window, in positions; clipped to the size of the map.
        mlp_ratio: Hidden width of an MLP relative to its input.
        start: "published", or "open" (ours) with one more trained scalar.

    Raises:
        ValueError: The sizes do not divide.
    """

    def __init__(
        self,
        dim: int,
        *,
        map_size: tuple[int, int] = (7, 7),
        stride: int = 32,
        num_frames: int = 8,
        width: int | None = None,
        depth: int = 2,
        heads: int = 8,
        window: int = 7,
        mlp_ratio: float = 4.0,
        start: MaskStart = "published",
    ) -> None:
        super().__init__()
        width = width or _default_width(dim, heads)
        _check(width, heads, num_frames)
        growths = _GROWTHS[stride]
        channels = (width, width // 4, width // 16)
        # Side of the map after the first and after the second expansion, which bounds the attention window.
        sides = (min(map_size) * growths[0], min(map_size) * growths[0] * growths[1])
        blocks = [
            _swin_blocks(channels[stage], depth, heads, min(window, sides[stage]), mlp_ratio)
            for stage in range(2)
        ]
        hidden = max(_SMALLEST_HEAD, channels[2] // _HEAD_DIVISOR)
        self.squeeze = TimeSqueeze(num_frames // 2, (*map_size, dim))
        self.expand1 = Expand(dim, channels[0], growths[0])
        self.blocks1 = blocks[0]
        self.expand2 = Expand(channels[0], channels[1], growths[1])
        self.blocks2 = blocks[1]
        self.expand3 = Expand(channels[1], channels[2], growths[2])
        self.head = nn.Sequential(
            nn.Linear(channels[2], hidden, bias=False), nn.GELU(), nn.Linear(hidden, 1, bias=False)
        )
        self.sharpness = nn.Parameter(torch.ones(()))
        # A logit, so that the optimiser cannot leave [0, 1]. A parameter that is None is not in the state
        # dict, so checkpoints with the published start are those of the release.
        self.strength_logit = nn.Parameter(torch.zeros(())) if start == "open" else None

    @property
    def strength(self) -> Tensor | None:
        """Strength g of the mask with an open start; None with the published start."""
        return None if self.strength_logit is None else self.strength_logit.sigmoid()

    def forward(self, video_map: Tensor) -> Tensor:
        """Map (B, D_z, T/2, h, w) to the applied mask (B, H, W) in [0, 1], always float32.

        H and W are `stride` times h and w.
        """
        x = self.blocks1(self.expand1(self.squeeze(video_map)))
        x = self.expand3(self.blocks2(self.expand2(x)))
        # Probabilities are near 2e-5 and differ by far less, which half precision cannot represent.
        scores = self.head(x).squeeze(-1).float()
        strength = self.strength
        mask = rescaled(scores * self.sharpness, constant_extremes=strength is not None)
        return mask if strength is None else 1 - strength * (1 - mask)


def rescaled(scores: Tensor, *, constant_extremes: bool = False) -> Tensor:
    """Return softmax over the pixels of (B, H, W) scores, rescaled to [0, 1] (eq. 11).

    Args:
        scores: (B, H, W).
        constant_extremes: Whether the gradient takes min p and max p as constants.
    """
    probabilities = scores.flatten(1).softmax(-1)
    # Softmax alone would shrink with the number of pixels: an even map of 224 x 224 has p = 2e-5.
    low = probabilities.amin(-1, keepdim=True)
    high = probabilities.amax(-1, keepdim=True)
    if constant_extremes:
        # Every value of a mask depends on these two pixels, whose gradients are therefore sums over all
        # pixels. They outweigh the gradients of the other scores, so that nothing else is learnt.
        low, high = low.detach(), high.detach()
    return ((probabilities - low) / (high - low + EPS)).view_as(scores)


class TimeSqueeze(nn.Module):
    """MLP over time, then a layer norm over the whole map.

    Args:
        length: T/2, steps of the map.
        shape: (h, w, D).
    """

    def __init__(self, length: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(length, length, bias=False), nn.GELU(), nn.Linear(length, 1, bias=False), nn.GELU()
        )
        self.norm = nn.LayerNorm(shape)
        self.expected = (shape[2], length, shape[0], shape[1])

    def forward(self, video_map: Tensor) -> Tensor:
        """Map (B, D, T/2, h, w) to (B, h, w, D)."""
        if tuple(video_map.shape[1:]) != self.expected:
            raise ValueError(
                f"the mask generator was built for maps (D, T/2, h, w) = {self.expected}, "
                f"got {tuple(video_map.shape[1:])}; number of frames and image size are fixed at build"
            )
        # (B, D, T/2, h, w) -> (B, h, w, D, T/2): a linear layer works on the last dimension, here time.
        last_channel = video_map.permute(0, 3, 4, 1, 2).to(self.norm.weight.dtype)
        squeezed: Tensor = self.norm(self.mlp(last_channel).squeeze(-1))
        return squeezed


class Expand(nn.Module):
    """Enlargement by a factor f: every position becomes a square of f x f positions.

    Args:
        dim: C, channels of the input.
        out: C', channels of the output.
        factor: f.
    """

    def __init__(self, dim: int, out: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(dim, factor * factor * out, bias=False)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, h, w, C) to (B, f h, f w, C')."""
        f = self.factor
        # (B, h, w, C) -> (B, h, w, f, f, C')
        squares = self.expand(x).unflatten(-1, (f, f, -1))
        # (B, h, f, w, f, C') -> (B, h, f, w f, C') -> (B, h f, w f, C')
        grown = squares.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        normed: Tensor = self.norm(grown)
        return normed


def _swin_blocks(dim: int, depth: int, heads: int, window: int, mlp_ratio: float) -> nn.Sequential:
    blocks = []
    for index in range(depth):
        # Shifted windows in every second block let neighbouring windows exchange information.
        shift = window // 2 if index % 2 else 0
        block = SwinTransformerBlock(dim, heads, [window, window], [shift, shift], mlp_ratio=mlp_ratio)
        for layer in block.mlp:
            # torchvision initialises them by Xavier, the published model by PyTorch's default.
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        # The index follows from the window. Not persistent: a checkpoint contains trained tensors only.
        index = block.attn.relative_position_index
        del block.attn.relative_position_index
        block.attn.register_buffer("relative_position_index", index, persistent=False)
        blocks.append(block)
    return nn.Sequential(*blocks)


def _default_width(dim: int, heads: int) -> int:
    # A sixteenth is the width of the last stage, and the heads share a quarter. D_z / 2 of every published
    # network is a multiple.
    multiple = math.lcm(16, 4 * heads)
    return -(-(dim // 2) // multiple) * multiple


def _check(width: int, heads: int, num_frames: int) -> None:
    if width % 16 or (width // 4) % heads:
        raise ValueError(
            f"the mask's width must be a multiple of 16, and a quarter of it of its heads; "
            f"got width {width}, heads {heads}"
        )
    if num_frames < 2 or num_frames % 2:
        raise ValueError(
            f"the video encoder reads pairs of frames: their number must be even, got {num_frames}"
        )
