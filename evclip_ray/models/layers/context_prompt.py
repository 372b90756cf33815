"""Context prompt of EV-CLIP (arXiv 2604.22595): the video map as tokens among CLIP's frame features.

    context = scale * LayerNorm(GELU(W mean(map)))

where
    map     last map of the video encoder, (D_z, T/2, h, w); its mean is taken over time and space
    W       trained matrix, (P D, D_z)
    scale   trained scalar; it starts at 0.001, so training starts close to zero-shot CLIP

The release has P = 1 and no hidden layer; both are settings here.
"""

import torch
from torch import Tensor, nn


class ContextGenerator(nn.Module):
    """Generator of the context prompt.

    Args:
        dim: D_z.
        embed_dim: D, channels of CLIP's frame features.
        tokens: P; 1 as published.
        width: Channels of a hidden layer before W; None for none, as published.
        scale_init: Initial scale.
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
        """Map (B, D_z, T/2, h, w) to (B, P, D)."""
        pooled = video_map.to(self.scale.dtype).mean((2, 3, 4))
        # (B, P D) -> (B, P, D), each token normalised by itself.
        context: Tensor = self.norm(self.project(pooled).unflatten(-1, (self.tokens, -1)))
        return self.scale * context
