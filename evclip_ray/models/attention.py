"""Self-attention of the frozen towers with the batch as the first dimension.

`nn.MultiheadAttention` moves the tokens to the first dimension and multiplies the resulting strided tensor.
PyTorch then copies the weights once per token, which took 3/4 of a training step on a CPU. This module
applies the same formula with the same parameters to contiguous tensors.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

Additions = Mapping[str, Callable[[Tensor], Tensor]] | nn.ModuleDict
"""Terms that a method adds to the projections of an attention: key "q", "k", "v" or "out" -> module."""

_PROJECTIONS = ("q", "k", "v", "out")


class SelfAttention(nn.Module):
    """Self-attention over (M, L, W) that shares the parameters of an `nn.MultiheadAttention`.

    M is the number of sequences, L of tokens and W the width.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        # The same Parameter objects under the same names: `state_dict` and the loading of weights do not
        # change.
        self.in_proj_weight = attention.in_proj_weight
        self.in_proj_bias = attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        need_weights: bool,
        attn_mask: Tensor | None,
        additions: Additions | None = None,
    ) -> tuple[Tensor, None]:
        """Return the attention output (M, L, W). The signature is that of `nn.MultiheadAttention`.

        Args:
            query: (M, L, W).
            key: The same tensor.
            value: The same tensor.
            need_weights: Must be False; the attention weights are not materialised.
            attn_mask: (L, L), added to the attention logits, or None.
            additions: Terms added to q, k and v, computed from `query`, and to the output projection,
                computed from its input; (M, L, W) -> (M, L, W) each.
        """
        assert key is query, "only self-attention is supported"
        assert value is query, "only self-attention is supported"
        assert not need_weights, "the attention weights are not materialised"
        # One product for q, k and v: (M, L, W) -> (M, L, 3 W).
        projected = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        if additions:
            unknown = [name for name in additions if name not in _PROJECTIONS]
            if unknown:
                raise ValueError(f"additions must be among {_PROJECTIONS}, got {unknown}")
            parts = zip(_PROJECTIONS, projected.chunk(3, dim=-1), strict=False)
            projected = torch.cat([_plus(part, additions, name, query) for name, part in parts], dim=-1)
        # (M, L, 3, H, W / H) -> (3, M, H, L, W / H), the layout of scaled_dot_product_attention.
        heads = projected.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if attn_mask is None else attn_mask.to(projected.dtype)
        q, k, v = heads.unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        # (M, H, L, W / H) -> (M, L, W)
        joined = attended.transpose(1, 2).flatten(2)
        mixed: Tensor = self.out_proj(joined)
        return (_plus(mixed, additions, "out", joined) if additions else mixed), None


def _plus(projected: Tensor, additions: Additions, name: str, inputs: Tensor) -> Tensor:
    if name not in additions:
        return projected
    # Added terms are float32 even over a bfloat16 tower: the sum returns to the tower's number format.
    return projected + additions[name](inputs).to(projected.dtype)


def use_batch_first_attention(model: nn.Module) -> None:
    """Replace the attention in the residual blocks of an open_clip model. The names of tensors stay."""
    for block in model.modules():
        if type(block) is ResidualAttentionBlock and type(block.attn) is nn.MultiheadAttention:
            block.attn = SelfAttention(block.attn)
