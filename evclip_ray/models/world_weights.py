"""Weights of the small pretrained world: package files whose digests are checked, and their words.

The files are made by `python -m evclip_ray.world.pretrain`. `card.json` in their folder has the SHA-256 of
each. `words.json` lists the words of the pretraining's captions; a world tower knows no other word.
"""

import difflib
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from evclip_ray.config import ConfigError
from evclip_ray.models.weight_names import WORLD as WORLD

WEIGHTS_FOLDER = Path(__file__).parents[1] / "world" / "weights"
CARD = "card.json"
WORDS = "words.json"
HEADS = "heads."
"""Prefix of the classifiers of the video network, which its trunk does not need."""

_WORD = re.compile(r"[^\W_]+")


def world_file(name: str) -> Path:
    """Return the path of a file in `WEIGHTS_FOLDER` after comparing its digest with the model card.

    Args:
        name: Name of the file.

    Raises:
        ConfigError: The file is missing or is not the one of the model card.
    """
    path = WEIGHTS_FOLDER / name
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}. Reinstall evclip-ray, which contains it.") from None
    return _checked(path, status.st_mtime_ns, status.st_size)


# The time and the size are only keys of the cache, so that a file that is replaced is hashed again.
@functools.lru_cache(maxsize=16)
def _checked(path: Path, _modified: int, _size: int) -> Path:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = _card_digests(path.parent).get(path.name)
    if found != expected:
        raise ConfigError(
            f"{path}: the SHA-256 is {found[:16]}, but the model card states "
            f"{expected[:16] if expected else 'none'}. The file is damaged: reinstall evclip-ray."
        )
    return path


def _card_digests(folder: Path) -> dict[str, str]:
    path = folder / CARD
    try:
        digests: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Reinstall evclip-ray.") from None
    return digests


def world_origin(name: str) -> str:
    """Return the identity of the weights `name`: "world:" and 16 digits of the file's SHA-256.

    The digest keeps features that were cached with the weights of another release apart.
    """
    path = world_file(f"{name}.safetensors")
    return f"{WORLD}:{_card_digests(path.parent)[path.name][:16]}"


def read_world_tensors(name: str) -> dict[str, Tensor]:
    """Read the tensors of the weights `name` in float32.

    Raises:
        ConfigError: The file is missing or damaged.
    """
    state = safetensors.torch.load_file(world_file(f"{name}.safetensors"))
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def world_words() -> tuple[str, ...]:
    """Return the words that the towers know, in the order of their tokens.

    Raises:
        ConfigError: The file is missing or damaged.
    """
    return tuple(json.loads(world_file(WORDS).read_text(encoding="utf-8")))


class WorldTokenizer:
    """Tokenizer with one token per word: 0 for padding, then the words, then start and end of a text.

    Case and punctuation are ignored. The end has the largest token because open_clip reads the text feature
    there, by `argmax`.

    Args:
        words: Known words, in the order of their tokens.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._tokens = {word: token for token, word in enumerate(words, start=1)}
        self._start = len(words) + 1
        self._end = len(words) + 2

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self._end + 1

    def __call__(self, texts: Sequence[str], context_length: int) -> Tensor:
        """Return the tokens (N, L) int64 of N texts, each cut to L = `context_length` tokens.

        Raises:
            ConfigError: A text contains an unknown word.
        """
        result = torch.zeros(len(texts), context_length, dtype=torch.long)
        for row, text in zip(result, texts, strict=True):
            tokens = [self._start, *self._encode(text)[: context_length - 2], self._end]
            row[: len(tokens)] = torch.tensor(tokens)
        return result

    def _encode(self, text: str) -> list[int]:
        words = _WORD.findall(text.lower())
        for word in words:
            if word not in self._tokens:
                near = difflib.get_close_matches(word, list(self._tokens), n=1)
                raise ConfigError(
                    f"unknown word {word!r} in {text!r}{f' (nearest: {near[0]!r})' if near else ''}. The "
                    "world-* backbones know only the words of the small world's captions. For other class "
                    "names set backbone.name to a real CLIP (ViT-B-16), or to debug for a trial without a "
                    "network."
                )
        return [self._tokens[word] for word in words]
