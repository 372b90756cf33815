"""Words of the captions, in the order of their tokens."""

import re

from evclip_ray.world.captions import vocabulary

_WORD = re.compile(r"[^\W_]+")


def caption_words() -> tuple[str, ...]:
    """Return the words that world towers know. Signs are left out, because the tokenizer ignores them."""
    return tuple(word for word in vocabulary() if _WORD.fullmatch(word))
