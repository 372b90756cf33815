"""Seeded assignment of splits and few-shot samples. Groups stay in one split."""

import collections
import dataclasses
import hashlib
import logging
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evclip_ray.data.manifest.manifest import SPLITS, Manifest
from evclip_ray.formatting import counted

logger = logging.getLogger(__name__)

Indices = NDArray[np.int64]


def assign_splits(
    manifest: Manifest,
    *,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
    hold_out_val: bool = True,
    recorded: Mapping[str, str] | None = None,
    legacy: bool = False,
) -> Manifest:
    """Return the manifest with a split for every row.

    If no row has a split, test is drawn from all rows and val from the rest. If there is a train but no val
    split, val is drawn from train, and test is unchanged. Other manifests are returned as they are.

    Whole groups are drawn; a row without a group is a group of its own, by its path. Groups are ordered by a
    hash of the seed and their name, and every class gets its shares in that order. The split of a group
    therefore depends only on the groups that share its classes. `_drawn` has the rule.

    A class of at least three groups has one in each split. A class of two groups has none in val, because the
    reported accuracy would leave out a class without test videos. A class of one group is in train. A
    warning lists the classes that a split lacks. If groups contain several classes, the shares of the large
    classes come before the minimum of a small one.

    Args:
        manifest: Manifest with complete or no splits.
        val_fraction: Fraction of the videos of each class for val.
        test_fraction: Fraction of the videos of each class for test, unused if there are splits.
        seed: Seed of the order of the groups.
        hold_out_val: Whether to draw val. The drawn test split does not depend on it.
        recorded: Group (or path of a row without group) -> split of an earlier draw. These groups keep their
            split, and only new groups are drawn. Names that the manifest lacks are ignored. A training group
            that was drawn but not used, for example by `few_shot`, must be part of it, or it counts as new.
        legacy: Draw as version 0.1 did, for studies and checkpoints that recorded no rows.

    Raises:
        ValueError: The fractions leave nothing to train on, only some rows have splits, or `recorded` has an
            unknown split or is combined with `legacy`.
    """
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise ValueError(
            f"val_fraction and test_fraction must be 0 or more and sum to less than 1,"
            f" got {val_fraction} and {test_fraction}"
        )
    recorded = dict(recorded or {})
    if recorded and legacy:
        raise ValueError("recorded splits cannot be extended by the draw of version 0.1; omit one of the two")
    if unknown := set(recorded.values()) - set(SPLITS):
        raise ValueError(f"recorded splits must be {', '.join(SPLITS)}, got {min(unknown)!r}")
    if not hold_out_val:
        val_fraction = 0.0
    splits = np.array(manifest.column("split"), dtype=object)
    missing = np.array([split is None for split in splits])
    if missing.all():
        rows = np.arange(len(manifest))
    elif missing.any():
        raise ValueError(
            f"{manifest.source}: {missing.sum()} of {counted(len(manifest), 'row')} "
            f"{'has' if missing.sum() == 1 else 'have'} no split; fill all or none"
        )
    elif manifest.splits() in (("train",), ("train", "test")) and (
        val_fraction or "val" in recorded.values()
    ):
        # The test split is given, also for groups that were recorded before the list had it.
        rows, test_fraction = manifest.in_split("train"), 0.0
        recorded = {name: split for name, split in recorded.items() if split != "test"}
    else:
        return manifest
    shares = {"train": 1 - val_fraction - test_fraction, "test": test_fraction, "val": val_fraction}
    draw = (
        _legacy_draw(manifest, rows, shares, seed)
        if legacy
        else _draw(manifest, rows, shares, seed, recorded)
    )
    splits[rows] = draw[rows]
    _warn_of_absent_classes(manifest, rows, splits, [name for name, share in shares.items() if share])
    position = manifest.table.column_names.index("split")
    table = manifest.table.set_column(position, "split", pa.array(splits, pa.string()))
    return dataclasses.replace(manifest, table=table)


def few_shot(
    manifest: Manifest,
    *,
    split: str = "train",
    shots: int,
    seed: int,
    nested: bool = True,
    at_most: bool = False,
) -> Indices:
    """Return the rows of a random sample of exactly K videos of each class of a split, ascending.

    The sample of a class depends neither on the order of the rows nor on the other classes.

    Args:
        manifest: Manifest with splits.
        split: Split to draw from.
        shots: Number K of videos of each class.
        seed: Seed of the sample.
        nested: True if K = 2 is part of K = 4. False if each K has its own sample, as in published lists.
        at_most: Take all videos of a class that has fewer than K, instead of raising an error.

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
    if scarce and not at_most:
        listed = ", ".join(f"{label!r} has {count}" for label, count in list(scarce.items())[:10])
        raise ValueError(
            f"{counted(shots, 'shot', 'needs', 'need')} {counted(shots, 'video')} of each class in "
            f"{split!r}; {len(scarce)} of {counted(len(by_label), 'class', 'has', 'have')} fewer: {listed}; "
            "take fewer shots or leave those classes out"
        )
    chosen: list[int] = []
    # Rows are sorted by path and start, so that a permuted manifest gives the same sample.
    for label, rows in by_label.items():
        rows.sort(key=lambda row: (paths[row], begins[row]))
        order = _generator(seed, label if nested else f"{shots} {label}").permutation(len(rows))[:shots]
        chosen.extend(rows[k] for k in order)
    return np.array(sorted(chosen), dtype=np.int64)


@dataclasses.dataclass(frozen=True)
class SplitSummary:
    """Size of a split and of its classes.

    Attributes:
        split: Name of the split; "none" for rows without one.
        videos: Number of rows.
        share: Share of all rows.
        groups: Number of groups. A row without a group is a group of its own, by its path.
        classes: Class -> number of its rows in the split, for all classes of the manifest.
        lowest: Lowest share of a class that the split has.
        highest: Highest share of a class that the split has.
    """

    split: str
    videos: int
    share: float
    groups: int
    classes: dict[str, int]
    lowest: float
    highest: float


def summarize_splits(manifest: Manifest) -> list[SplitSummary]:
    """Return a summary of each split that has rows, in the order train, val, test, none."""
    names = pc.coalesce(manifest.table["group"], manifest.table["path"])
    split = pc.fill_null(manifest.table["split"], "none")
    table = pa.table({"split": split, "label": manifest.table["label"], "group": names})
    distinct = table.group_by("split").aggregate([("group", "count_distinct")]).to_pylist()
    groups = {row["split"]: row["group_count_distinct"] for row in distinct}
    totals = collections.Counter(table["label"].to_pylist())
    by_split: dict[str, dict[str, int]] = {name: dict.fromkeys(manifest.classes, 0) for name in groups}
    for row in table.group_by(["split", "label"]).aggregate([("group", "count")]).to_pylist():
        by_split[row["split"]][row["label"]] = row["group_count"]
    summaries = []
    for name in (*SPLITS, "none"):
        if name in groups:
            classes = by_split[name]
            shares = [count / totals[label] for label, count in classes.items()]
            videos = sum(classes.values())
            share = videos / len(manifest)
            summaries.append(
                SplitSummary(name, videos, share, groups[name], classes, min(shares), max(shares))
            )
    return summaries


def _draw(
    manifest: Manifest, rows: Indices, shares: dict[str, float], seed: int, recorded: Mapping[str, str]
) -> NDArray[np.object_]:
    """Return the split of each of `rows`, None for other rows.

    Test is drawn first, from all groups, so that it does not depend on the share of val.
    """
    members = _groups(manifest, rows)
    labels = manifest.column("label")
    counts: dict[str, dict[str, int]] = {}
    for name in sorted(members, key=lambda name: _position(name, len(members[name]), seed)):
        # In the order of labels, because a sum of floats depends on the order.
        counts[name] = dict(sorted(collections.Counter([labels[row] for row in members[name]]).items()))
    # Three groups of a class must leave two for train and val, even if this draw needs no val.
    test = _drawn(counts, shares["test"], _placed(recorded, "test"), at_least=2)
    rest = {name: count for name, count in counts.items() if name not in test}
    val = _drawn(rest, shares["val"] / (1 - shares["test"]), _placed(recorded, "val"), at_least=1)
    result = np.empty(len(manifest), dtype=object)
    for name, group in members.items():
        result[group] = "test" if name in test else "val" if name in val else "train"
    return result


def _placed(recorded: Mapping[str, str], split: str) -> dict[str, bool]:
    return {name: before == split for name, before in recorded.items()}


def _position(name: str, size: int, seed: int) -> tuple[int, bytes]:
    """Return the sort key of a group: large groups first, those of about equal size by a hash.

    Small groups come last, because they can even out what large ones left unequal. Sizes are compared by
    their power of two, so that the seed also decides between groups of 5 and of 7 videos.
    """
    # SHA-256, because Python's own `hash` of a text differs between processes.
    return -size.bit_length(), hashlib.sha256(f"{seed} {name}".encode()).digest()


def _drawn(
    counts: dict[str, dict[str, int]], share: float, placed: Mapping[str, bool], *, at_least: int
) -> set[str]:
    """Draw a share of the videos of every class by whole groups, and return the names of the drawn groups.

    A group that is not placed yet is drawn if the sum of the votes of its videos is positive. Each of its
    videos of class c has the vote

        (share * (n + k) - drawn - k / 2) / N

    where n is the number of videos of c in groups that are placed, drawn of those that are drawn, k of those
    in this group, and N of all. With one class per group, this keeps the number of drawn videos within half a
    group of its share at each step, and so also when groups are added one by one.

    If no more groups with class c are left than its minimums require, its videos vote 1 or -1 instead, which
    is more than any other vote: first for one group that stays, then for one that is drawn, then for
    `at_least` groups that stay.

    Args:
        counts: Group -> class -> number of videos, in the order in which groups are placed.
        share: Share to draw.
        placed: Group -> whether it is drawn, for groups of an earlier draw.
        at_least: Number of groups of a class that stay.
    """
    drawn = {name for name in counts if placed.get(name)}
    if not share:
        return drawn
    tallies: dict[str, _Tally] = collections.defaultdict(_Tally)
    for name, count in counts.items():
        for label, size in count.items():
            tallies[label].videos += size
            tallies[label].groups_left += 1
            if name in placed:
                tallies[label].place(size, drawn=name in drawn)
    for name, count in counts.items():
        if name in placed:
            continue
        votes = sum(tallies[label].vote(size, share, at_least) for label, size in count.items())
        if votes > 0:
            drawn.add(name)
        for label, size in count.items():
            tallies[label].place(size, drawn=votes > 0)
    return drawn


@dataclasses.dataclass(slots=True)
class _Tally:
    """Number of videos and groups of a class: all videos, and those in groups that are placed and drawn."""

    videos: int = 0
    videos_placed: int = 0
    videos_drawn: int = 0
    groups_left: int = 0
    groups_kept: int = 0
    groups_drawn: int = 0

    def vote(self, size: int, share: float, at_least: int) -> float:
        """Return the sum of the votes of `size` videos, positive to draw them. See `_drawn`."""
        required = max(0, at_least - self.groups_kept) + (not self.groups_drawn)
        if self.groups_left <= required:
            return size if self.groups_kept and not self.groups_drawn else -size
        wanted = share * (self.videos_placed + size) - self.videos_drawn - size / 2
        return size * wanted / self.videos

    def place(self, size: int, *, drawn: bool) -> None:
        """Count a group with `size` videos of the class."""
        self.videos_placed += size
        self.groups_left -= 1
        if drawn:
            self.videos_drawn += size
            self.groups_drawn += 1
        else:
            self.groups_kept += 1


def _warn_of_absent_classes(
    manifest: Manifest, rows: Indices, splits: NDArray[np.object_], names: list[str]
) -> None:
    labels = np.array(manifest.column("label"), dtype=object)[rows]
    classes = set(labels)
    for name in names:
        absent = sorted(classes - set(labels[splits[rows] == name]))
        if absent:
            shown = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
            logger.warning(
                "%s: %s has no video of %d of %s, because of too few groups: %s",
                manifest.source, name, len(absent), counted(len(classes), "class"), shown,
            )  # fmt: skip


def _groups(manifest: Manifest, rows: Indices) -> dict[str, list[int]]:
    groups, paths = manifest.column("group"), manifest.column("path")
    members: dict[str, list[int]] = collections.defaultdict(list)
    for row in rows.tolist():
        members[groups[row] or paths[row]].append(row)
    return members


def _legacy_draw(
    manifest: Manifest, rows: Indices, shares: dict[str, float], seed: int
) -> NDArray[np.object_]:
    """Return the split of each of `rows` as version 0.1 drew it. Its result may not change.

    Groups, largest first, go to the split that needs their labels most.

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
    return result


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
