"""The context prompt of EV-CLIP: what the video encoder saw, as tokens among CLIP's frame features.

    context = scale * LayerNorm(GELU(W mean(map)))         mean over time and place

The scale starts at 0.001, so that training starts from CLIP as it is.
"""

import torch
from torch import Tensor, nn


class ContextGenerator(nn.Module):
    """(B, D_z, T/2, h, w), the video encoder's last map -> (B, P, D).

    Args:
        dim: D_z.
        embed_dim: D, of CLIP's frame features.
        tokens: P, how many; 1 as published.
        width: of a hidden layer before W; none, as published, when None.
        scale_init: where the scale starts.
    """

    def __init__(
        self,
        dim: int,
        embed_dim: int,
        *,
        tokens: int = 1,
        width: int | None = None,
        scale_init: float = 0.001,
    ) -> None:
        super().__init__()
        hidden = [] if width is None else [nn.Linear(dim, width, bias=False), nn.GELU()]
        self.project = nn.Sequential(
            *hidden, nn.Linear(width or dim, tokens * embed_dim, bias=False), nn.GELU()
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.scale = nn.Parameter(torch.tensor(scale_init))
        self.tokens = tokens

    def forward(self, video_map: Tensor) -> Tensor:
        """(B, D_z, T/2, h, w) -> (B, P, D)."""
        pooled = video_map.to(self.scale.dtype).mean((2, 3, 4))
        context: Tensor = self.norm(self.project(pooled).unflatten(-1, (self.tokens, -1)))
        return self.scale * context
