"""Seeded assignment of splits and few-shot samples. Groups stay in one split."""

import collections
import dataclasses
import hashlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evclip_ray.data.manifest.manifest import Manifest

Indices = NDArray[np.int64]


def assign_splits(
    manifest: Manifest, *, val_fraction: float = 0.2, test_fraction: float = 0.2, seed: int = 0
) -> Manifest:
    """Return the manifest with a split for every row.

    If no row has a split, groups are assigned to train, val and test, stratified by label as far as whole
    groups allow. If there is a train but no val split, val is taken from train by group, and test is
    unchanged. A row without a group is a group of its own, by its path.

    Args:
        manifest: Manifest with complete, partial or no splits.
        val_fraction: Fraction of the videos for val.
        test_fraction: Fraction of the videos for test, unused if there are splits.
        seed: Seed of the order of groups of equal size.

    Raises:
        ValueError: The fractions leave nothing to train on, or only some rows have splits.
    """
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise ValueError(
            f"val_fraction and test_fraction must be 0 or more and sum to less than 1,"
            f" got {val_fraction} and {test_fraction}"
        )
    splits = np.array(manifest.column("split"), dtype=object)
    missing = np.array([split is None for split in splits])
    if missing.all():
        shares = {"train": 1 - val_fraction - test_fraction, "test": test_fraction, "val": val_fraction}
        splits = _deal(manifest, np.arange(len(manifest)), shares, seed)
    elif missing.any():
        raise ValueError(
            f"{manifest.source}: {missing.sum()} of {len(manifest)} rows have no split; fill all or none"
        )
    elif val_fraction and manifest.splits() in (("train",), ("train", "test")):
        train = manifest.in_split("train")
        splits[train] = _deal(manifest, train, {"train": 1 - val_fraction, "val": val_fraction}, seed)
    else:
        return manifest
    position = manifest.table.column_names.index("split")
    table = manifest.table.set_column(position, "split", pa.array(splits, pa.string()))
    return dataclasses.replace(manifest, table=table)


def few_shot(
    manifest: Manifest, *, split: str = "train", shots: int, seed: int, nested: bool = True
) -> Indices:
    """Return the rows of a random sample of exactly K videos of each class of a split, ascending.

    The sample of a class depends neither on the order of the rows nor on the other classes.

    Args:
        manifest: Manifest with splits.
        split: Split to draw from.
        shots: Number K of videos of each class.
        seed: Seed of the sample.
        nested: True if K = 2 is part of K = 4. False if each K has its own sample, as in published lists.

    Raises:
        ValueError: K is less than 1, or a class has fewer than K videos in the split.
    """
    if shots < 1:
        raise ValueError(f"shots must be at least 1, got {shots}")
    by_label: dict[str, list[int]] = {label: [] for label in manifest.classes}
    labels, paths = manifest.column("label"), manifest.column("path")
    starts = zip(manifest.column("start_seconds"), manifest.column("start_frame"), strict=True)
    # A part has bounds in seconds or in frames, never both.
    begins = [seconds or frame or 0.0 for seconds, frame in starts]
    for row in manifest.in_split(split).tolist():
        by_label[labels[row]].append(row)
    scarce = {label: len(rows) for label, rows in by_label.items() if len(rows) < shots}
    if scarce:
        listed = ", ".join(f"{label!r} has {count}" for label, count in list(scarce.items())[:10])
        raise ValueError(
            f"{shots} shots need {shots} videos of each class in {split!r}; {len(scarce)} of"
            f" {len(by_label)} classes have fewer: {listed}; take fewer shots or leave those classes out"
        )
    chosen: list[int] = []
    # Rows are sorted by path and start, so that a permuted manifest gives the same sample.
    for label, rows in by_label.items():
        rows.sort(key=lambda row: (paths[row], begins[row]))
        order = _generator(seed, label if nested else f"{shots} {label}").permutation(len(rows))[:shots]
        chosen.extend(rows[k] for k in order)
    return np.array(sorted(chosen), dtype=np.int64)


def _deal(manifest: Manifest, rows: Indices, shares: dict[str, float], seed: int) -> NDArray[np.object_]:
    """Return a split for each row. Groups, largest first, go to the split that needs their labels most.

        need(split, label) = (share * total - assigned) / share

    where share is the fraction of the split, total the number of videos with the label, and assigned the
    number of those that the split already has. All needs start equal, so a class of three groups gets one in
    each split instead of three in train.
    """
    shares = {name: share for name, share in shares.items() if share > 0}
    labels = manifest.column("label")
    totals = collections.Counter(labels[row] for row in rows.tolist())
    given: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in shares}
    result = np.empty(len(manifest), dtype=object)
    # Small groups come last, because they can even out what large ones left unequal.
    for members in _largest_first(_groups(manifest, rows), seed):
        counts = collections.Counter(labels[row] for row in members)
        needs = {
            name: sum((totals[kind] - given[name][kind] / share) * count for kind, count in counts.items())
            for name, share in shares.items()
        }
        # Of equal needs, the first split of `shares` is chosen.
        chosen = max(needs, key=needs.__getitem__)
        given[chosen].update(counts)
        result[members] = chosen
    return result[rows]


def _groups(manifest: Manifest, rows: Indices) -> dict[str, list[int]]:
    groups, paths = manifest.column("group"), manifest.column("path")
    members: dict[str, list[int]] = collections.defaultdict(list)
    for row in rows.tolist():
        members[groups[row] or paths[row]].append(row)
    return members


def _largest_first(groups: dict[str, list[int]], seed: int) -> list[list[int]]:
    """Return the groups by falling size, and those of equal size in a seeded order."""
    # Sorted before they are shuffled, so that the order of the rows has no effect.
    names = sorted(groups)
    shuffled = [names[k] for k in np.random.default_rng(seed).permutation(len(names))]
    return [groups[name] for name in sorted(shuffled, key=lambda name: -len(groups[name]))]


def _generator(seed: int, label: str) -> np.random.Generator:
    # Python's own `hash` of a text differs between processes.
    words = hashlib.sha256(label.encode()).digest()[:8]
    return np.random.default_rng([seed, int.from_bytes(words, "little")])
