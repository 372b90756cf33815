"""Class names: split into words, and normalized for comparison."""

import functools
import re
import unicodedata

_SIGNS = re.compile(r"[\W_]+")


def split_words(name: str) -> str:
    """Return a class name as words.

    A single CamelCase word is split and lowered. Any other name keeps its letters.

    >>> split_words("ApplyEyeMakeup"), split_words("shake_hands"), split_words("push ups")
    ('apply eye makeup', 'shake hands', 'push ups')
    """
    name = name.replace("_", " ").strip()
    if " " not in name and re.search(r"[a-z][A-Z]", name):
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()
    return re.sub(r"\s+", " ", name)


def normalized_name(name: str) -> str:
    """Return the letters and digits of a name, case folded. Two names are the same class if these are equal.

    An accent may be composed or decomposed. A name without letters and digits is returned unchanged, because
    it would equal every other such name.

    >>> normalized_name("HandStandPushups"), normalized_name("Handstand_Pushups"), normalized_name("-")
    ('handstandpushups', 'handstandpushups', '-')
    """
    # Importers compare every row: names of letters and digits only skip the cache and the pattern.
    return name.casefold() if name.isalnum() else _without_signs(name)


@functools.lru_cache(maxsize=1 << 16)
def _without_signs(name: str) -> str:
    # A decomposed accent is a sign of its own, and would be removed.
    return _SIGNS.sub("", unicodedata.normalize("NFC", name)).casefold() or name
