"""CLIP's two towers, run block by block, so that a method can insert its own parts between those of CLIP.

A tower reads an open_clip model. It holds no parameter, registers no module and replaces nothing in the
model. Run with `block` itself as the step, it computes what the model computes.

A residual block of CLIP computes, with frozen LN, MHA, MLP and layer scales s1, s2 (identity in most CLIPs):

    x = x + s1 MHA(LN1(x))        the attention branch, `attention_branch`
    x = x + s2 MLP(LN2(x))        the MLP branch, `mlp_branch`
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import open_clip
import torch
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer, text_global_pool
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from evclip_ray.config import ConfigError
from evclip_ray.models.attention import Additions, SelfAttention


class Block(Protocol):
    """A residual attention block of a frozen tower, as a method's step receives it.

    It is open_clip's ResidualAttentionBlock with one module replaced: in a `FrozenCLIP`, `attn` is our
    `SelfAttention` instead of `nn.MultiheadAttention`. Both have `in_proj_weight`, `in_proj_bias`,
    `out_proj` and `num_heads` under the same names.
    """

    attn: nn.Module
    ln_1: Callable[[Tensor], Tensor]
    ls_1: Callable[[Tensor], Tensor]
    ln_2: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]
    ls_2: Callable[[Tensor], Tensor]

    def attention(self, q_x: Tensor, *, attn_mask: Tensor | None = None) -> Tensor:
        """Return self-attention over (M, L, W), without layer norm and residual."""

    def __call__(self, q_x: Tensor, *, attn_mask: Tensor | None = None) -> Tensor:
        """Return the block's output, (M, L, W), with both residuals."""


Step = Callable[[int, Block, Tensor], Tensor]
"""(index of the block, the block, its tokens (M, L, W)) -> the tokens after it, (M, L, W)."""


def attention_branch(
    block: Block, tokens: Tensor, mask: Tensor | None = None, *, additions: Additions | None = None
) -> Tensor:
    """Return the attention branch of a block, (M, L, W), without its residual.

    With x = LN1(tokens) and additions a_q, a_k, a_v, a_out:

        q = W_q x + b_q + a_q(x)          k and v alike
        o = softmax(q k' / sqrt(d)) v
        branch = s1 (W_o o + b_o + a_out(o))

    Low-rank adaptation (LoRA) of the projections passes a_q(x) = scale B_q A_q x, and the same for the
    other projections: see `docs/examples/evclip_ray_lora`.

    Args:
        block: Frozen block.
        tokens: (M, L, W).
        mask: (L, L), added to the attention scores.
        additions: Modules or functions (M, L, W) -> (M, L, W) under the keys "q", "k", "v" and "out", each
            optional. An `nn.ModuleDict` is accepted.
    """
    normed = block.ln_1(tokens)
    if not additions:
        return block.ls_1(block.attention(normed, attn_mask=mask))
    # A bare open_clip model still has nn.MultiheadAttention, which forms q, k and v in one fused call.
    attention = block.attn if isinstance(block.attn, SelfAttention) else SelfAttention(block.attn)  # type: ignore[arg-type]
    mixed, _ = attention(normed, normed, normed, need_weights=False, attn_mask=mask, additions=additions)
    return block.ls_1(mixed)


def mlp_branch(block: Block, tokens: Tensor) -> Tensor:
    """Return the MLP branch of a block, (M, L, W), without its residual."""
    return block.ls_2(block.mlp(block.ln_2(tokens)))


class ImageTower:
    """Image tower of a CLIP as a stack of blocks.

    Attributes:
        width: W, channels of a token.
        depth: Number of blocks.

    Args:
        visual: Image tower of an open_clip model.
        name: Name of the backbone, for error messages.
        method: Name of the method, for error messages.

    Raises:
        ConfigError: The tower is not open_clip's own vision transformer, read at its class token.
    """

    def __init__(self, visual: nn.Module, *, name: str, method: str) -> None:
        if not isinstance(visual, VisionTransformer):
            raise ConfigError(
                f"{method} works inside the blocks of open_clip's VisionTransformer; "
                f"backbone {name} has a {type(visual).__name__}. Choose a ViT, for example ViT-B-16"
            )
        self.visual: Any = visual
        if visual.pool_type != "tok" or visual.attn_pool is not None:
            raise ConfigError(
                f"{method} reads the class token; backbone {name} pools in another way. Choose another ViT"
            )
        _require_plain(visual.transformer, name, method)
        self.width = int(visual.transformer.width)
        self.depth = len(visual.transformer.resblocks)

    def encode(self, images: Tensor, step: Step, *, added: Tensor | None = None) -> Tensor:
        """Return the class token of every frame after the last block, (B, T, W).

        Args:
            images: (B, T, 3, S, S), prepared by `FrozenCLIP.prepare`.
            step: Computation of one block.
            added: (T, 1, W), added to the tokens of each frame before the first layer norm.
        """
        visual = self.visual
        num_videos, num_frames = images.shape[:2]
        # A convolution whose stride is the patch: (B T, 3, S, S) -> (B T, W, S/p, S/p) -> (B T, P, W).
        patches = visual.conv1(images.flatten(0, 1).to(visual.conv1.weight.dtype))
        patches = patches.flatten(2).transpose(1, 2)
        # The class token comes first: (B T, 1 + P, W).
        first = visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        tokens = torch.cat([first, patches], dim=1) + visual.positional_embedding.to(patches.dtype)
        if added is not None:
            tokens = tokens + added.to(tokens.dtype).repeat(num_videos, 1, 1)
        tokens = _run(visual.transformer, visual.ln_pre(tokens), step)
        class_tokens: Tensor = tokens[:, 0].unflatten(0, (num_videos, num_frames))
        return class_tokens

    def project(self, class_tokens: Tensor) -> Tensor:
        """Map class tokens (B, T, W) to frame features (B, T, D), un-normalised."""
        features: Tensor = self.visual.ln_post(class_tokens)
        return features if self.visual.proj is None else features @ self.visual.proj


class TextTower:
    """Text tower of a CLIP, entered at its word embeddings.

    Attributes:
        width: W, channels of a token.
        depth: Number of blocks.

    Args:
        model: open_clip model.
        name: Name of the backbone, for error messages.
        method: Name of the method, for error messages.

    Raises:
        ConfigError: The tower is not open_clip's own text transformer.
    """

    def __init__(self, model: Any, *, name: str, method: str) -> None:
        # A CustomTextCLIP has its text tower as a module; a plain CLIP has the parts in the model itself.
        text = getattr(model, "text", model)
        is_whole = isinstance(text, TextTransformer) and text.cls_emb is None and not text.use_pad_mask
        if not is_whole and type(text) is not open_clip.CLIP:
            raise ConfigError(
                f"{method} enters the text tower at its word embeddings; that of backbone {name} "
                f"({type(text).__name__}) has no such entrance. Choose a CLIP, for example ViT-B-16"
            )
        _require_plain(text.transformer, name, method)
        self.text = text
        # A CustomTextCLIP keeps these two in its text tower, a plain CLIP in the model itself.
        self.pool_type = text.pool_type if is_whole else text.text_pool_type
        self.end_token = text.eos_id if is_whole else text.text_eos_id
        self.width = int(text.transformer.width)
        self.depth = len(text.transformer.resblocks)

    def embed(self, tokens: Tensor) -> Tensor:
        """Map tokens (M, L) int64 to rows of the embedding table, (M, L, W)."""
        embeddings: Tensor = self.text.token_embedding(tokens)
        return embeddings

    def encode(self, embeddings: Tensor, tokens: Tensor, step: Step | None = None) -> Tensor:
        """Return text features (M, D), un-normalised, with gradient.

        Args:
            embeddings: (M, L, W), from `embed`, possibly with some words replaced.
            tokens: (M, L); they locate the end of each text, where its feature is read.
            step: Computation of one block; by default the block itself.
        """
        text = self.text
        words = embeddings + text.positional_embedding[: embeddings.shape[1]]
        words = _run(text.transformer, words, step or self._plain)
        words = text.ln_final(words)
        pooled: Tensor = text_global_pool(words, tokens, self.pool_type, eos_token_id=self.end_token)
        if isinstance(text.text_projection, nn.Linear):
            pooled = text.text_projection(pooled)
        elif text.text_projection is not None:
            pooled = pooled @ text.text_projection
        return pooled

    def attention_branch(self, block: Block, words: Tensor, *, additions: Additions | None = None) -> Tensor:
        """Return `attention_branch` under the tower's causal mask: a word attends to the words before it."""
        return attention_branch(block, words, self.text.attn_mask, additions=additions)

    def _plain(self, _index: int, block: Block, words: Tensor) -> Tensor:
        return block(words, attn_mask=self.text.attn_mask)


def _run(transformer: Any, tokens: Tensor, step: Step) -> Tensor:
    for index, block in enumerate(transformer.resblocks):
        # Without gradients nothing is stored, and recomputing would only cost time. The non-reentrant variant
        # also works where no input of the block needs a gradient, as in a frozen tower.
        if transformer.grad_checkpointing and torch.is_grad_enabled():
            tokens = checkpoint(step, index, block, tokens, use_reentrant=False)
        else:
            tokens = step(index, block, tokens)
    return tokens


def _require_plain(transformer: Any, name: str, method: str) -> None:
    blocks: Sequence[nn.Module] = transformer.resblocks
    unknown = {type(block).__name__ for block in blocks if type(block) is not ResidualAttentionBlock}
    if unknown or not transformer.batch_first:
        raise ConfigError(
            f"{method} works inside plain residual attention blocks; backbone {name} has "
            f"{', '.join(sorted(unknown)) or 'blocks with the batch second'}. Choose another backbone"
        )
