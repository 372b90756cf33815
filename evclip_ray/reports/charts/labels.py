"""Labels of axes that stay different when they are shortened, and ticks of logarithmic axes."""

import collections
import json
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import altair as alt

MAX_LABEL = 28
"""Largest number of characters of a label. 28 characters are 180 pixels, half of a phone's width."""


def short_names(names: Sequence[str], limit: int = MAX_LABEL) -> dict[str, str]:
    """Shorten long names such that different names stay different.

    "raising the right arm to the side" with a limit of 20 becomes "raising th…the side". Where two names
    would become the same, the cut moves away from the middle. Where no place of the cut tells them apart,
    they keep more characters. Chinese and other wide letters count twice.

    Args:
        names: Names.
        limit: Number of characters, except where names would become the same.

    Returns:
        The short name by name.
    """
    limit = int(limit / max((columns(name) / len(name) for name in names if name), default=1))
    short = {name: _cut(name, limit, limit // 2) for name in names}
    for length in range(limit, max(map(len, names), default=0) + 1):
        for head in sorted(range(1, length), key=lambda place: abs(place - length // 2)):
            count = collections.Counter(short.values())
            clashing = [name for name, text in short.items() if count[text] > 1]
            if not clashing:
                return short
            short |= {name: _cut(name, length, head) for name in clashing}
    return short


def columns(text: str) -> int:
    """Return the width of a text in Latin letters.

    >>> columns("run"), columns("跑步")
    (3, 4)
    """
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def name_axis(names: Sequence[str], limit: int = MAX_LABEL, **options: Any) -> alt.Axis:
    """Return an axis of names, which are shortened by `short_names` instead of cut at the end.

    Args:
        names: Names on the axis.
        limit: Number of characters of a label.
        **options: Further options of the axis.
    """
    shortened = short_names(names, limit)
    if any(name != text for name, text in shortened.items()):
        # The table has all names: a missing one such as "constructor" would give the object's own member.
        options["labelExpr"] = f"({json.dumps(shortened)})[datum.value]"
    return alt.Axis(**options)


def word_axis(words: Sequence[str]) -> alt.Axis:
    """Return a horizontal axis of words. They are slanted where they do not fit next to each other."""
    fit = len(words) <= 4 and all(len(word) <= 10 for word in words)
    return name_axis(words, limit=20, labelAngle=0 if fit else -45)


def log_ticks(low: float, high: float) -> list[float] | None:
    """Return the ticks of a logarithmic axis: powers of ten, or 1, 2 and 5 times these on a short axis.

    By default Vega draws a grid line at every multiple of a power of ten, which hides the marks.

    Args:
        low: Smallest value, above 0.
        high: Largest value.

    Returns:
        At least two ticks, or None where the axis is too short for them.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        # Decimal text instead of a product, so that a tick is 0.002 and not 0.0020000000000000005.
        ticks = [float(f"{factor}e{power}") for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) > 1:
            return ticks
    return None


def _cut(text: str, limit: int, head: int) -> str:
    """Replace a part of a text by an ellipsis, after its first `head` characters."""
    if len(text) <= limit:
        return text
    tail = limit - 1 - head
    return f"{text[:head].rstrip()}…{text[len(text) - tail :].lstrip()}"
