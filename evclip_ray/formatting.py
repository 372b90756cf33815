"""Formatting of numbers, sizes, durations, dotted paths and commands for people."""

import math
import re
import shlex
import time
from collections.abc import Collection
from typing import Any

# Control characters except tab and newline, and the bytes of file names that are not UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
# Tails of dotted paths that are ambiguous without the name in front of them: `mask.depth`, `adapter.depth`.
_AMBIGUOUS = {"depth", "heads", "width", "name", "window", "tokens"}
# Sections of an experiment whose settings are recognised by their last name alone.
_PLAIN_SECTIONS = {"optim", "data", "view"}


def printable(text: str) -> str:
    r"""Replace the characters that a terminal would execute or cannot encode by their escapes.

    >>> print(printable("a\x1b[2J.mp4"), printable("\udce9.mp4"))
    a\x1b[2J.mp4 \xe9.mp4
    """
    return _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    # Python reads the byte 0xE9 of a file name as the character U+DCE9.
    code = ord(match[0])
    is_byte = code <= 0xFF or 0xDC80 <= code <= 0xDCFF
    return f"\\x{code & 0xFF:02x}" if is_byte else f"\\u{code:04x}"


def shell(*words: object) -> str:
    """Return a command line with its words quoted for a shell.

    >>> shell("evclip-ray", "report", "my studies/first")
    "evclip-ray report 'my studies/first'"
    """
    return shlex.join(map(str, words))


def short(value: Any, missing: str | None = None) -> str:
    """Format a value with at most three significant digits.

    Args:
        value: Number or setting; only floats are rounded.
        missing: Text for None and NaN; by default they are formatted as any other value.

    >>> [short(v) for v in (0.00031234, 16, "both")]
    ['0.000312', '16', 'both']
    """
    if missing is not None and is_missing(value):
        return missing
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def percent(share: float | None, missing: str = "–") -> str:
    """Format a share with two significant digits.

    >>> percent(0.4837), percent(0.0212), percent(0.0), percent(None)
    ('48 %', '2.1 %', '0 %', '–')
    """
    if share is None or is_missing(share):
        return missing
    return f"{100 * share:.0f} %" if share >= 0.1 or not share else f"{100 * share:.2g} %"


def with_interval(value: float, low: float, high: float, missing: str = "–") -> str:
    """Format a score with its interval, or alone where the interval is missing.

    >>> with_interval(0.182, 0.051, 0.477)
    '0.182 (0.05 to 0.48)'
    """
    if is_missing(value):
        return missing
    return f"{value:.3f}" + ("" if is_missing(low) else f" ({low:.2f} to {high:.2f})")


def counted(number: float, noun: str, is_one: str = "", are_many: str = "") -> str:
    """Format a number of things, and a verb that agrees with it.

    >>> counted(1, "trial"), counted(1200, "validation video"), counted(2, "class"), counted(3, "epoch")
    ('1 trial', '1,200 validation videos', '2 classes', '3 epochs')
    >>> counted(1, "trial", "is", "are"), counted(0, "copy", "was", "were")
    ('1 trial is', '0 copies were')

    Args:
        number: Number of things; infinite if there is no limit.
        noun: Their name in the singular.
        is_one: Verb after one thing; empty for none.
        are_many: Verb after any other number.
    """
    verb = is_one if number == 1 else are_many
    return f"{number:,.0f} {noun if number == 1 else _plural(noun)}" + (f" {verb}" if verb else "")


def _plural(noun: str) -> str:
    # The "ch" of "epoch" is a k.
    if noun.endswith(("s", "x", "ch", "sh")) and noun != "epoch":
        return f"{noun}es"
    is_after_consonant = noun.endswith("y") and noun[-2] not in "aeiou"
    return f"{noun[:-1]}ies" if is_after_consonant else f"{noun}s"


def sample_size(videos: int, groups: int | None = None) -> str:
    """Format the sample of an interval.

    >>> sample_size(72), sample_size(72, 24), sample_size(12, 1)
    ('72 videos', '72 videos in 24 groups', '12 videos in 1 group')
    """
    number = "" if groups is None or is_missing(groups) else f" in {counted(groups, 'group')}"
    return f"{counted(videos, 'video')}{number}"


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours.

    >>> [duration(s) for s in (12, 600, 9000)]
    ['12 s', '10 min', '2.5 h']
    """
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def age(written: float) -> str:
    """Format the time since `written`, in seconds since 1970; days from two days on."""
    seconds = max(time.time() - written, 0)
    return f"{seconds / 86_400:.0f} d" if seconds >= 172_800 else duration(seconds)


def megabytes(num_bytes: float) -> str:
    """Format a file size in megabytes of 1e6 bytes."""
    return f"{num_bytes / 1e6:,.1f} MB"


def binary_size(num_bytes: float) -> str:
    """Format a size of disk or memory in GiB, or in MiB below one GiB."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def brief_path(path: str) -> str:
    """Shorten a dotted path for a label.

    >>> [brief_path(p) for p in ("optim.lr", "method.mask.depth")]
    ['lr', 'mask.depth']
    """
    parts = path.split(".")
    return parts[-1] if parts[0] in _PLAIN_SECTIONS else ".".join(parts[-2:]).removeprefix("method.")


def unique_tail(path: str, paths: Collection[str]) -> str:
    """Return the shortest unambiguous tail of a dotted path for a column heading.

    Args:
        path: One of `paths`.
        paths: All paths that have a column in the same table.

    >>> unique_tail("optim.lr", ["optim.lr", "method.mask.depth"])
    'lr'
    """
    parts = path.split(".")
    for length in range(1, len(parts)):
        tail = ".".join(parts[-length:])
        is_unique = sum(other == tail or other.endswith(f".{tail}") for other in paths) == 1
        if is_unique and tail not in _AMBIGUOUS:
            return tail
    return path


def is_missing(value: Any) -> bool:
    """Return whether a value is None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))
