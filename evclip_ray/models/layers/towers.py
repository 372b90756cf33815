"""CLIP's two towers, run block by block from outside: what a method adds goes between their parts.

Nothing is edited in place: a tower is a reader of an open_clip model, holds no parameter and
registers nothing. With `plain` blocks it computes what the model itself does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import torch
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer, text_global_pool
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from evclip_ray.config import ConfigError

Step = Callable[[int, Any, Tensor], Tensor]
"""(index of the block, the block, its tokens (M, L, W)) -> the tokens after it, (M, L, W)."""


def attend(block: Any, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """(M, L, W) -> (M, L, W): the attention branch of a block, without its residual."""
    branch: Tensor = block.ls_1(block.attention(block.ln_1(tokens), attn_mask=mask))
    return branch


def think(block: Any, tokens: Tensor) -> Tensor:
    """(M, L, W) -> (M, L, W): the MLP branch of a block, without its residual."""
    branch: Tensor = block.ls_2(block.mlp(block.ln_2(tokens)))
    return branch


class ImageTower:
    """The image tower of a CLIP as a stack of blocks. `width`: W, `depth`: how many blocks.

    Raises:
        ConfigError: not open_clip's own vision transformer, read at its class token.
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
                f"{method} reads the class token; backbone {name} pools otherwise. Choose another ViT"
            )
        _require_plain(visual.transformer, name, method)
        self.width = int(visual.transformer.width)
        self.depth = len(visual.transformer.resblocks)

    def encode(self, images: Tensor, step: Step, *, added: Tensor | None = None) -> Tensor:
        """(B, T, 3, S, S) prepared -> (B, T, W): the class token of every frame after the last block.

        `added`: (T, 1, W), added to the tokens of each frame before the first layer norm.
        """
        visual = self.visual
        num_videos, num_frames = images.shape[:2]
        patches = visual.conv1(images.flatten(0, 1).to(visual.conv1.weight.dtype))
        patches = patches.flatten(2).transpose(1, 2)
        first = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([first, patches], dim=1) + visual.positional_embedding.to(patches.dtype)
        if added is not None:
            tokens = tokens + added.to(tokens.dtype).repeat(num_videos, 1, 1)
        tokens = _run(visual.transformer, visual.ln_pre(tokens), step)
        class_tokens: Tensor = tokens[:, 0].unflatten(0, (num_videos, num_frames))
        return class_tokens

    def project(self, class_tokens: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, D): the frame features, un-normalised."""
        features: Tensor = self.visual.ln_post(class_tokens)
        return features if self.visual.proj is None else features @ self.visual.proj


class TextTower:
    """The text tower of a CLIP, entered at its word embeddings. `width`: W, `depth`: blocks.

    Raises:
        ConfigError: not open_clip's own text transformer.
    """

    def __init__(self, model: Any, *, name: str, method: str) -> None:
        text = getattr(model, "text", model)
        is_whole = isinstance(text, TextTransformer) and text.cls_emb is None and not text.use_pad_mask
        if not is_whole and type(text) is not open_clip.CLIP:
            raise ConfigError(
                f"{method} enters the text tower at its word embeddings; that of backbone {name} "
                f"({type(text).__name__}) has no such entrance. Choose a CLIP, for example ViT-B-16"
            )
        _require_plain(text.transformer, name, method)
        self.text = text
        self.pool_type = text.pool_type if is_whole else text.text_pool_type
        self.end_token = text.eos_id if is_whole else text.text_eos_id
        self.width = int(text.transformer.width)
        self.depth = len(text.transformer.resblocks)

    def embed(self, tokens: Tensor) -> Tensor:
        """(M, L) int64 -> (M, L, W): rows of the token table."""
        embeddings: Tensor = self.text.token_embedding(tokens)
        return embeddings

    def encode(self, embeddings: Tensor, tokens: Tensor, step: Step | None = None) -> Tensor:
        """(M, L, W) words -> (M, D), un-normalised, with gradient.

        Args:
            embeddings: as `embed` gives them, or with some replaced.
            tokens: (M, L), which tell where each text ends.
            step: what a block does; the block itself when None.
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

    def attend(self, block: Any, words: Tensor) -> Tensor:
        """`attend` with the tower's own mask: a word sees those before it."""
        return attend(block, words, self.text.attn_mask)

    def _plain(self, _index: int, block: Any, words: Tensor) -> Tensor:
        after: Tensor = block(words, attn_mask=self.text.attn_mask)
        return after


def _run(transformer: Any, tokens: Tensor, step: Step) -> Tensor:
    for index, block in enumerate(transformer.resblocks):
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
