"""What moves, from frame features alone: differences over short and long time, and two streams.

The parts of `motion_prompts`; our reading of a paper without published equations.
"""

import torch
from torch import Tensor, nn

_STD = 0.02


def differences(frames: Tensor, step: int) -> Tensor:
    """(B, T, D) -> (B, T, D): f_{t+step} - f_t, the last difference repeated where no later frame is.

    A still video gives zeros, a reversed one the negative, in reversed order. `step` is at most T - 1.
    """
    num_frames = frames.shape[1]
    step = min(step, num_frames - 1)
    change = frames[:, step:] - frames[:, : num_frames - step]
    return torch.cat([change, change[:, -1:].expand(-1, step, -1)], dim=1)


class TwoStreams(nn.Module):
    """(B, T, D) frame features -> motion (B, T, D) and space (B, T, D).

    Args:
        dim: D.
        num_frames: T, which the time embedding is bound to.
        long_step: frames between those of a long-term difference; the short-term one takes neighbours.
        depth: transformer layers a stream.
        heads: of their attention.
    """

    def __init__(self, dim: int, *, num_frames: int, long_step: int, depth: int, heads: int) -> None:
        super().__init__()
        self.time = nn.Parameter(torch.randn(num_frames, dim) * _STD)
        self.enter = nn.Linear(2 * dim, dim)
        self.motion = nn.Sequential(*(_layer(dim, heads) for _ in range(depth)))
        self.space = nn.Sequential(*(_layer(dim, heads) for _ in range(depth)))
        self.long_step = long_step

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> (B, T, D), (B, T, D).

        Raises:
            ValueError: another T than it was built for.
        """
        if frames.shape[1] != len(self.time):
            raise ValueError(
                f"these motion prompts were built for {len(self.time)} frames, got {frames.shape[1]}; "
                "give as many frames as they were trained with"
            )
        change = torch.cat([differences(frames, 1), differences(frames, self.long_step)], dim=-1)
        return self.motion(self.enter(change) + self.time), self.space(frames + self.time)


class CrossAttention(nn.Module):
    """(B, Q, D) asks, (B, K, D) answers -> (B, Q, D), layer norms before, no residual."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.asking = nn.LayerNorm(dim)
        self.answering = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, asking: Tensor, answering: Tensor) -> Tensor:
        """(B, Q, D), (B, K, D) -> (B, Q, D)."""
        answers = self.answering(answering)
        found: Tensor = self.attention(self.asking(asking), answers, answers, need_weights=False)[0]
        return found


def _layer(dim: int, heads: int) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
