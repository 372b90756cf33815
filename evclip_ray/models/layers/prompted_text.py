"""Class texts with a place for learned vectors: [start] [P vectors] [class name .] [end]."""

from collections.abc import Sequence

import torch
from torch import Tensor

from evclip_ray.config import ConfigError
from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.layers.class_text import class_texts

_EMPTY = 0


def prompted_tokens(clip: FrozenCLIP, class_names: Sequence[str], num_vectors: int) -> Tensor:
    """(N, L) int64: each name with `num_vectors` empty tokens before it, which vectors replace.

    Raises:
        ConfigError: a name that does not fit beside them.
        ValueError: names that are equal, or too long by themselves.
    """
    texts = class_texts(class_names, "{}.")
    plain = clip.tokenize(texts)
    start = prompt_start(clip)
    pushed_out = plain[:, plain.shape[1] - num_vectors :]
    # What follows a text's end is the tokenizer's padding, the same at the end of the shortest text.
    padding = clip.tokenize(["."])[0, -1]
    overflowing = (pushed_out != padding).any(1).nonzero().flatten().tolist()
    if overflowing or num_vectors >= plain.shape[1]:
        name = class_names[overflowing[0]] if overflowing else class_names[0]
        raise ConfigError(
            f"{name!r} and {num_vectors} learned vectors must fit in {clip.name}'s context of "
            f"{clip.context_length} tokens; shorten the name or learn fewer vectors"
        )
    empty = plain.new_full((len(plain), num_vectors), _EMPTY)
    kept = plain[:, start : plain.shape[1] - num_vectors]
    return torch.cat([plain[:, :start], empty, kept], dim=1)


def prompt_start(clip: FrozenCLIP) -> int:
    """Where the vectors begin: after the start token, which not every tokenizer has."""
    return 1 if hasattr(clip.tokenizer, "sot_token_id") else 0


def with_vectors(words: Tensor, vectors: Tensor, start: int) -> Tensor:
    """(M, L, W) words, (M, P, W) vectors -> (M, L, W): words `start` to `start + P` replaced."""
    return torch.cat([words[:, :start], vectors, words[:, start + vectors.shape[1] :]], dim=1)
