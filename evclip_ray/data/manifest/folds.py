"""Folds of a cross-validation over few training videos: stratified by class, whole groups."""

import collections
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evclip_ray.formatting import counted

_FOLDS = 4


def count_folds(
    labels: Sequence[str], groups: Sequence[str], requested: int | None = None, *, source: str
) -> int:
    """Return the number of folds: four, or as many as the class with the fewest groups has.

    Args:
        labels: Label of each video.
        groups: Group of each video; its path if it has none.
        requested: Number that the user asks for; None chooses it.
        source: Origin of the videos, for messages.

    Raises:
        ValueError: A class has a single group, or fewer groups than the requested folds.
    """
    by_label: dict[str, set[str]] = collections.defaultdict(set)
    for label, group in zip(labels, groups, strict=True):
        by_label[label].add(group)
    scarce = sorted(label for label, names in by_label.items() if len(names) < (requested or 2))
    if scarce:
        shown = ", ".join(repr(label) for label in scarce[:5]) + (", ..." if len(scarce) > 5 else "")
        fewest = min(map(len, by_label.values()))
        lower = f" Or lower data.folds to {fewest}." if requested and fewest > 1 else ""
        raise ValueError(
            f"{source}: cross-validation in {counted(requested or 2, 'fold')} needs as many training videos "
            f"(or groups) of each class; {len(scarce)} of {counted(len(by_label), 'class', 'has', 'have')} "
            f"fewer: {shown}. Mark some other videos as 'val' in the column `split`, on which the study is "
            f"then measured.{lower} `evclip-ray train` needs neither."
        )
    return requested or min(_FOLDS, min(map(len, by_label.values())))


def assign_folds(labels: Sequence[str], groups: Sequence[str], *, folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold (0 to `folds` - 1) in which each video is held out.

    Groups are placed from large to small, and groups of equal size in the order of a hash of their name and
    the seed. Each goes to the fold that has the smallest share of its classes, of equal ones to the fold with
    the fewest videos. The folds of a class therefore differ by at most one group if a group has one class.

    Args:
        labels: Label of each video.
        groups: Group of each video; its path if it has none.
        folds: Number of folds.
        seed: Seed of the order of groups of equal size.
    """
    members: dict[str, list[int]] = collections.defaultdict(list)
    for position, group in enumerate(groups):
        members[group].append(position)
    totals = collections.Counter(labels)
    placed: list[collections.Counter[str]] = [collections.Counter() for _ in range(folds)]
    result = np.empty(len(labels), np.int64)
    for name in sorted(members, key=lambda name: (-len(members[name]), _hash(seed, name))):
        counts = collections.Counter(labels[position] for position in members[name])
        shares = [
            (sum(fold[label] * count / totals[label] for label, count in counts.items()), fold.total())
            for fold in placed
        ]
        chosen = min(range(folds), key=shares.__getitem__)
        placed[chosen].update(counts)
        result[members[name]] = chosen
    return result


def _hash(seed: int, name: str) -> bytes:
    # Python's own `hash` of a text differs between processes.
    return hashlib.sha256(f"{seed} {name}".encode()).digest()
