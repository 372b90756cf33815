"""The mask prompt of EV-CLIP: a map of the video becomes a map of where to look, one a video.

The last map of the video encoder is squeezed over time, then grown 32 times in three expansions,
with Swin blocks after the first two, to one score a pixel (methods 1.2 of the paper's release):

    p = softmax(sharpness * scores)            over the pixels of a video
    mask = (p - min p) / (max p - min p + eps)

A probability of an even map is 2e-5, so that `eps` counts: a mask with nothing to say stays low.
"""

import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlock

EPS = 1e-8
_GROWTHS = (2, 4, 4)
_SMALLEST_HEAD = 4
_HEAD_DIVISOR = 3


class MaskGenerator(nn.Module):
    """(B, D_z, T/2, h, w), the video encoder's last map -> (B, 32 h, 32 w) in [0, 1].

    Args:
        dim: D_z.
        map_size: (h, w).
        num_frames: T, which a generator is bound to: it has weights over time.
        width: channels after the first expansion, a quarter after the second, a sixteenth after the
            third; D_z / 2 when None.
        depth: Swin blocks a stage; every second one is shifted.
        heads: of the blocks' attention.
        window: side of the blocks' windows, in positions; no larger than the map.
        mlp_ratio: hidden width of the blocks' MLP over their width.

    Raises:
        ValueError: sizes that do not divide.
    """

    def __init__(
        self,
        dim: int,
        *,
        map_size: tuple[int, int] = (7, 7),
        num_frames: int = 8,
        width: int | None = None,
        depth: int = 2,
        heads: int = 8,
        window: int = 7,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        width = width or dim // 2
        _check(width, heads, num_frames)
        channels = (width, width // 4, width // 16)
        sides = (min(map_size) * _GROWTHS[0], min(map_size) * _GROWTHS[0] * _GROWTHS[1])
        blocks = [
            _swin_blocks(channels[stage], depth, heads, min(window, sides[stage]), mlp_ratio)
            for stage in range(2)
        ]
        hidden = max(_SMALLEST_HEAD, channels[2] // _HEAD_DIVISOR)
        self.squeeze = TimeSqueeze(num_frames // 2, (*map_size, dim))
        self.expand1 = Expand(dim, channels[0], _GROWTHS[0])
        self.blocks1 = blocks[0]
        self.expand2 = Expand(channels[0], channels[1], _GROWTHS[1])
        self.blocks2 = blocks[1]
        self.expand3 = Expand(channels[1], channels[2], _GROWTHS[2])
        self.head = nn.Sequential(
            nn.Linear(channels[2], hidden, bias=False), nn.GELU(), nn.Linear(hidden, 1, bias=False)
        )
        self.sharpness = nn.Parameter(torch.ones(()))

    def forward(self, video_map: Tensor) -> Tensor:
        """(B, D_z, T/2, h, w) -> (B, 32 h, 32 w) float32, also under autocast."""
        x = self.blocks1(self.expand1(self.squeeze(video_map)))
        x = self.expand3(self.blocks2(self.expand2(x)))
        # Probabilities are 2e-5 and their differences far less: half precision has no such numbers.
        scores = self.head(x).squeeze(-1).float()
        return rescaled(scores * self.sharpness)


def rescaled(scores: Tensor) -> Tensor:
    """(B, H, W) scores -> (B, H, W): softmax over the pixels, stretched to [0, 1] (paper eq. 11)."""
    probabilities = scores.flatten(1).softmax(-1)
    low = probabilities.amin(-1, keepdim=True)
    high = probabilities.amax(-1, keepdim=True)
    return ((probabilities - low) / (high - low + EPS)).view_as(scores)


class TimeSqueeze(nn.Module):
    """(B, D, T', h, w) -> (B, h, w, D): an MLP over time, then a layer norm over the whole map."""

    def __init__(self, length: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(length, length, bias=False), nn.GELU(), nn.Linear(length, 1, bias=False), nn.GELU()
        )
        self.norm = nn.LayerNorm(shape)
        self.expected = (shape[2], length, shape[0], shape[1])

    def forward(self, video_map: Tensor) -> Tensor:
        """(B, D, T', h, w) -> (B, h, w, D)."""
        if tuple(video_map.shape[1:]) != self.expected:
            raise ValueError(
                f"the mask generator was built for maps (D, T/2, h, w) = {self.expected}, "
                f"got {tuple(video_map.shape[1:])}; number of frames and image size are fixed at build"
            )
        moved = video_map.permute(0, 3, 4, 1, 2).to(self.norm.weight.dtype)
        squeezed: Tensor = self.norm(self.mlp(moved).squeeze(-1))
        return squeezed


class Expand(nn.Module):
    """(B, h, w, C) -> (B, f h, f w, C'): every position becomes a square of f x f."""

    def __init__(self, dim: int, out: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(dim, factor * factor * out, bias=False)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, f h, f w, C')."""
        f = self.factor
        squares = self.expand(x).unflatten(-1, (f, f, -1))
        grown = squares.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        normed: Tensor = self.norm(grown)
        return normed


def _swin_blocks(dim: int, depth: int, heads: int, window: int, mlp_ratio: float) -> nn.Sequential:
    blocks = []
    for index in range(depth):
        shift = window // 2 if index % 2 else 0
        block = SwinTransformerBlock(dim, heads, [window, window], [shift, shift], mlp_ratio=mlp_ratio)
        for layer in block.mlp:
            # torchvision starts these otherwise (Xavier) than the published model (PyTorch's default).
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        # It follows from the window; a checkpoint holds what was trained and nothing else.
        index = block.attn.relative_position_index
        del block.attn.relative_position_index
        block.attn.register_buffer("relative_position_index", index, persistent=False)
        blocks.append(block)
    return nn.Sequential(*blocks)


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
