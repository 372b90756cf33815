"""Motion and space streams over frame features: the parts of `motion_prompts`.

    d_s(f)_t = f_{t+s} - f_t
    M        = Transformer(W [d_1(f), d_long(f)] + e)
    S        = Transformer(f + e)

where e is a trained time embedding, (T, D). The equations are ours: arXiv 2308.04828 publishes none.
"""

import torch
from torch import Tensor, nn

from evclip_ray.formatting import counted

_STD = 0.02


def differences(frames: Tensor, step: int) -> Tensor:
    """Return f_{t+step} - f_t, (B, T, D); the last difference is repeated at the end.

    A still video gives zeros.

    Args:
        frames: (B, T, D).
        step: Number of frames; values above T - 1 are lowered to it.
    """
    num_frames = frames.shape[1]
    step = min(step, num_frames - 1)
    change = frames[:, step:] - frames[:, : num_frames - step]
    # The repeated difference keeps T positions, so that the streams can be added frame by frame.
    return torch.cat([change, change[:, -1:].expand(-1, step, -1)], dim=1)


class TwoStreams(nn.Module):
    """Motion and space streams.

    Args:
        dim: D.
        num_frames: T; the time embedding is bound to it.
        long_step: Frames between those of a long-term difference. The short-term difference has step 1.
        depth: Transformer layers per stream.
        heads: Attention heads per layer.
    """

    def __init__(self, dim: int, *, num_frames: int, long_step: int, depth: int, heads: int) -> None:
        super().__init__()
        self.time = nn.Parameter(torch.randn(num_frames, dim) * _STD)
        self.enter = nn.Linear(2 * dim, dim)
        self.motion = nn.Sequential(*(_layer(dim, heads) for _ in range(depth)))
        self.space = nn.Sequential(*(_layer(dim, heads) for _ in range(depth)))
        self.long_step = long_step

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return motion and space, (B, T, D) each.

        Raises:
            ValueError: T differs from `num_frames`.
        """
        if frames.shape[1] != len(self.time):
            raise ValueError(
                f"these motion prompts were built for {counted(len(self.time), 'frame')}, got "
                f"{frames.shape[1]}; give as many frames as they were trained with"
            )
        change = torch.cat([differences(frames, 1), differences(frames, self.long_step)], dim=-1)
        return self.motion(self.enter(change) + self.time), self.space(frames + self.time)


class CrossAttention(nn.Module):
    """Cross-attention with a layer norm before each input, without residual."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.asking = nn.LayerNorm(dim)
        self.answering = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, queries: Tensor, values: Tensor) -> Tensor:
        """Attend from queries (B, Q, D) to (B, K, D). Returns (B, Q, D)."""
        # The names of the two layer norms are part of checkpoints and stay.
        normed = self.answering(values)
        attended: Tensor = self.attention(self.asking(queries), normed, normed, need_weights=False)[0]
        return attended


def _layer(dim: int, heads: int) -> nn.TransformerEncoderLayer:
    # No dropout: the result then does not depend on the number of workers, which draw separate masks.
    return nn.TransformerEncoderLayer(
        dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
