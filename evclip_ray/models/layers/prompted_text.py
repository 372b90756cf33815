"""Class texts with placeholders for learned vectors: [start] [P vectors] [class name] . [end]."""

from collections.abc import Sequence

import torch
from torch import Tensor

from evclip_ray.config import ConfigError
from evclip_ray.formatting import counted
from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.layers.class_text import class_texts

_EMPTY = 0


def prompted_tokens(clip: FrozenCLIP, class_names: Sequence[str], num_vectors: int) -> Tensor:
    """Return tokens (N, L) int64 with `num_vectors` placeholders before each class name.

    Args:
        clip: Source of the tokenizer.
        class_names: N class names.
        num_vectors: P, number of learned vectors.

    Raises:
        ConfigError: A name and the vectors do not fit in the text context.
        ValueError: Two names are equal, or a name alone exceeds the context.
    """
    texts = class_texts(class_names, "{}.")
    plain = clip.tokenize(texts)
    start = prompt_start(clip)
    # The vectors push the last tokens out of the context. These must be padding.
    pushed_out = plain[:, plain.shape[1] - num_vectors :]
    # The last token of the shortest text is the tokenizer's padding; anything else would be cut off.
    padding = clip.tokenize(["."])[0, -1]
    overflowing = (pushed_out != padding).any(1).nonzero().flatten().tolist()
    if overflowing or num_vectors >= plain.shape[1]:
        name = class_names[overflowing[0]] if overflowing else class_names[0]
        raise ConfigError(
            f"{name!r} and {num_vectors} learned vectors must fit in {clip.name}'s context of "
            f"{counted(clip.context_length, 'token')}, got {clip.count_tokens(f'{name}.') + num_vectors}; "
            "shorten the name or learn fewer vectors"
        )
    # The placeholders' embeddings are replaced by `with_vectors`. The tokens also locate the end of the text,
    # so the placeholder must not be the end token.
    empty = plain.new_full((len(plain), num_vectors), _EMPTY)
    rest = plain[:, start : plain.shape[1] - num_vectors]
    return torch.cat([plain[:, :start], empty, rest], dim=1)


def prompt_start(clip: FrozenCLIP) -> int:
    """Return the index of the first vector: 1 after a start token, 0 if the tokenizer has none."""
    return 1 if hasattr(clip.tokenizer, "sot_token_id") else 0


def with_vectors(words: Tensor, vectors: Tensor, start: int) -> Tensor:
    """Replace the words from `start` to `start + P` of (M, L, W) by vectors (M, P, W)."""
    return torch.cat([words[:, :start], vectors, words[:, start + vectors.shape[1] :]], dim=1)
