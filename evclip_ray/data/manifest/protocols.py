"""Protocols: the videos and classes of training, of validation and of each evaluation. No video is opened.

The selection code never sees evaluation videos: validation is held out of train, by group where there are
groups. A protocol that evaluates on another data set takes the protocol of the training (`closed_set`,
`few_shot`, or `already_trained` for a checkpoint) and that data set.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evclip_ray.class_names import normalized_name
from evclip_ray.data.manifest import splits
from evclip_ray.data.manifest.manifest import SPLITS, Manifest, ManifestError
from evclip_ray.formatting import counted

Indices = NDArray[np.int64]

_PUBLISHED_SHOTS = (1, 2, 4, 8, 16)


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """Videos that are used together: `rows` of `manifest`, and the classes in the order of their indices."""

    manifest: Manifest
    rows: Indices
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Videos and classes of one protocol.

    Attributes:
        name: Name of the protocol.
        classes: Classes of the training, in the order of their indices.
        train: Training videos, None if nothing is trained or the training is done.
        val: Validation videos, None like `train`.
        eval_sets: Name -> videos to score, each with its own classes.
    """

    name: str
    classes: tuple[str, ...]
    train: EvalSet | None
    val: EvalSet | None
    eval_sets: dict[str, EvalSet]


def closed_set(
    manifest: Manifest,
    *,
    classes: Sequence[str] | None = None,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
    hold_out_val: bool = True,
    recorded: Mapping[str, str] | None = None,
    legacy: bool = False,
) -> Protocol:
    """Return a protocol that trains, validates and evaluates on the same classes.

    Missing splits are assigned by `splits.assign_splits`. A split may be empty.

    Args:
        manifest: Videos with or without splits.
        classes: Classes in the order of their indices, all by default.
        val_fraction: Fraction of the videos for validation.
        test_fraction: Fraction of the videos for the test, if the manifest has no splits.
        seed: Seed of the splits.
        hold_out_val: Whether to draw a validation split if there is none, see `splits.assign_splits`.
        recorded: Splits of an earlier draw, see `splits.assign_splits`.
        legacy: Whether to draw as version 0.1 did, see `splits.assign_splits`.

    Raises:
        ValueError: A class has no video, there are fewer than two classes, or splits cannot be assigned.
    """
    # Splits come before the choice of classes, so that the split of a video does not depend on that choice.
    manifest = splits.assign_splits(
        manifest,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
        hold_out_val=hold_out_val,
        recorded=recorded,
        legacy=legacy,
    )
    manifest, names = (manifest, manifest.classes) if classes is None else of_classes(manifest, classes)
    if len(names) < 2:
        raise ValueError(f"{manifest.source}: needs at least two labels, got {list(names)}")
    train, val, test = (EvalSet(manifest, manifest.in_split(name), names) for name in SPLITS)
    return Protocol("closed_set", names, train, val, {"test": test})


def few_shot(
    manifest: Manifest,
    *,
    shots: int,
    nested: bool = True,
    classes: Sequence[str] | None = None,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
    hold_out_val: bool = True,
    recorded: Mapping[str, str] | None = None,
    legacy: bool = False,
) -> Protocol:
    """Return `closed_set` with K training videos of each class; published for K = 1, 2, 4, 8 and 16.

    Args:
        manifest: See `closed_set`.
        shots: Number K of training videos of each class.
        nested: True if the K videos are among the 2K videos of the same seed.
        classes: See `closed_set`.
        val_fraction: See `closed_set`.
        test_fraction: See `closed_set`.
        seed: Seed of the splits and of the shots.
        hold_out_val: See `closed_set`.
        recorded: See `closed_set`. It also has the training groups that were not chosen as shots.
        legacy: See `closed_set`.

    Raises:
        ValueError: See `closed_set`; or a class has fewer than K training videos.
    """
    whole = closed_set(
        manifest,
        classes=classes,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
        hold_out_val=hold_out_val,
        recorded=recorded,
        legacy=legacy,
    )
    assert whole.train is not None
    # Only train is reduced. Validation and test stay those of the whole set, so that results for all K are
    # comparable.
    try:
        rows = splits.few_shot(whole.train.manifest, shots=shots, seed=seed, nested=nested)
    except ValueError as error:
        if not hold_out_val or "val" in manifest.splits():
            raise
        raise ValueError(
            f"{manifest.source}: {error}, or set data.selection=last_epoch, which holds no validation videos "
            "out of train"
        ) from None
    return dataclasses.replace(whole, name="few_shot", train=dataclasses.replace(whole.train, rows=rows))


def with_val_shots(protocol: Protocol, *, shots: int, seed: int, nested: bool = True) -> Protocol:
    """Return the protocol with at most K validation videos of each class, drawn like the training shots.

    Args:
        protocol: Protocol with a validation set.
        shots: Number K. A class with fewer validation videos keeps all of them.
        seed: Seed of the sample.
        nested: True if the K videos are among the 2K videos of the same seed.
    """
    assert protocol.val is not None
    rows = splits.few_shot(
        protocol.val.manifest, split="val", shots=shots, seed=seed, nested=nested, at_most=True
    )
    return dataclasses.replace(protocol, val=dataclasses.replace(protocol.val, rows=rows))


def published_shots(manifest: Manifest) -> int | None:
    """Return K if the list has K training videos of each class and no validation videos, else None.

    K is 1, 2, 4, 8 or 16, as in the published few-shot lists. Holding validation videos out of such a list
    would train on fewer shots than the protocol has: on 13 of 16 and on 1 of 2.
    """
    if "train" not in manifest.splits() or "val" in manifest.splits():
        return None
    labels = manifest.table["label"]
    rows = pa.array(manifest.in_split("train"), pa.int64())
    counts = pc.value_counts(labels.take(rows)).field("counts").to_pylist()
    shots = set(counts) if len(counts) == len(manifest.classes) else set()
    return shots.pop() if len(shots) == 1 and shots <= set(_PUBLISHED_SHOTS) else None


def whole(target: Manifest, *, classes: Sequence[str] | None = None) -> EvalSet:
    """Return all rows of a manifest, with its own classes.

    Args:
        target: Videos.
        classes: Classes in the order of their indices, all by default.

    Raises:
        ValueError: A class has no video, or there are fewer than two classes.
    """
    manifest, names = (target, target.classes) if classes is None else of_classes(target, classes)
    if len(names) < 2:
        raise ValueError(f"{target.source}: needs at least two labels, got {list(names)}")
    return EvalSet(manifest, np.arange(len(manifest)), names)


def zero_shot(target: Manifest, *, split: str = "test") -> Protocol:
    """Return a protocol without training that evaluates on `target` with its own classes."""
    return Protocol("zero_shot", (), None, None, {"test": _own_classes(target, split)})


def already_trained(classes: Sequence[str]) -> Protocol:
    """Return the protocol of a checkpoint whose training videos are not available."""
    return Protocol("already_trained", tuple(classes), None, None, {})


def base_to_novel(trained: Protocol, target: Manifest, *, split: str = "test") -> Protocol:
    """Return a protocol that evaluates on the trained classes and, separately, on all others of `target`.

    Both top-1 are reported with `metrics.classification.harmonic_mean`. Usually, `base_classes` are trained.

    Args:
        trained: Protocol of the training.
        target: Videos of the trained classes and of others.
        split: Split of `target` to evaluate. All rows are used if `target` has no splits.

    Raises:
        ValueError: A trained class is not in `target`, or `target` has no other class.
    """
    base, base_names = of_classes(target, trained.classes)
    # By normalized name: the same class in another spelling is not novel.
    known = {normalized_name(name) for name in trained.classes}
    others = [name for name in target.classes if normalized_name(name) not in known]
    if not others:
        raise ValueError(
            f"{target.source}: every class was trained, so there are no novel classes; train only some"
        )
    novel, novel_names = of_classes(target, others)
    eval_sets = {
        "base": EvalSet(base, _eval_rows(base, split), base_names),
        "novel": EvalSet(novel, _eval_rows(novel, split), novel_names),
    }
    return _transfer("base_to_novel", trained, eval_sets)


def cross_dataset(trained: Protocol, target: Manifest, *, split: str = "test") -> Protocol:
    """Return a protocol that evaluates on another data set with its own classes.

    Args:
        trained: Protocol of the training.
        target: The other data set.
        split: Split of `target` to evaluate. All rows are used if `target` has no splits.
    """
    return _transfer("cross_dataset", trained, {"test": _own_classes(target, split)})


def cross_domain(trained: Protocol, target: Manifest, *, split: str = "test") -> Protocol:
    """Return a protocol that evaluates on the classes that `target` shares with the training.

    Classes are the same if their `normalized_name` is: "Pick" and "pick". The labels are spelled as in
    training, and keep that order.

    Args:
        trained: Protocol of the training.
        target: Videos of another domain.
        split: Split of `target` to evaluate. All rows are used if `target` has no splits.

    Raises:
        ValueError: Fewer than two classes are shared.
    """
    target_names = {normalized_name(name) for name in target.classes}
    shared = [name for name in trained.classes if normalized_name(name) in target_names]
    if len(shared) < 2:
        raise ValueError(
            f"{target.source}: shares {len(shared)} of the "
            f"{counted(len(trained.classes), 'trained class')}, needs at"
            f" least two; its classes are {', '.join(target.classes[:5])}, ..."
        )
    manifest, _ = of_classes(target, shared)
    manifest = _spelled(manifest, {normalized_name(name): name for name in shared})
    eval_set = EvalSet(manifest, _eval_rows(manifest, split), tuple(shared))
    return _transfer("cross_domain", trained, {"test": eval_set})


TRANSFERS: dict[str, Callable[..., Protocol]] = {
    "base_to_novel": base_to_novel,
    "cross_dataset": cross_dataset,
    "cross_domain": cross_domain,
}
"""Protocols that evaluate on another data set than that of the training."""
EVALUATIONS = ("closed_set", "zero_shot", *TRANSFERS)
"""Protocols that `evaluate` takes."""


def base_classes(manifest: Manifest) -> tuple[str, ...]:
    """Return the half of the classes with the most training videos, rounded up, in alphabetical order.

    As in ViFi-CLIP (CVPR 2023, section 4): 26 of HMDB51's 51 and 51 of UCF101's 101. Of equally frequent
    classes, the first in alphabetical order are taken.
    """
    labels = np.array(manifest.column("label"))
    rows = manifest.in_split("train")
    counts = collections.Counter((labels[rows] if len(rows) else labels).tolist())
    # `sorted` is stable and `classes` is in alphabetical order, so equal counts stay in that order.
    frequent = sorted(manifest.classes, key=lambda name: -counts[name])
    return tuple(sorted(frequent[: (len(frequent) + 1) // 2]))


def of_classes(manifest: Manifest, classes: Sequence[str]) -> tuple[Manifest, tuple[str, ...]]:
    """Return the videos of `classes`, and the classes in their order as the manifest spells them.

    Raises:
        ValueError: A class has no video, or two have the same `normalized_name`.
    """
    spelled = {normalized_name(name): name for name in manifest.classes}
    absent = [name for name in classes if normalized_name(name) not in spelled]
    if absent:
        raise ValueError(
            f"{manifest.source}: has no video of {len(absent)} of {counted(len(classes), 'class')}:"
            f" {', '.join(absent[:5])}; leave them out, or use a manifest with these labels"
        )
    names = tuple(spelled[normalized_name(name)] for name in classes)
    # Labels with one normalized name replaced each other in `spelled`.
    if len(spelled) < len(manifest.classes) or len(set(names)) < len(names):
        raise ValueError(f"{manifest.source}: two classes differ in case or signs only; rename one")
    chosen = pc.is_in(manifest.table["label"], value_set=pa.array(names))
    return manifest.select(np.flatnonzero(chosen.to_numpy())), names


def _own_classes(target: Manifest, split: str) -> EvalSet:
    rows = _eval_rows(target, split)
    if len(target.classes) < 2:
        raise ValueError(f"{target.source}: needs at least two labels, got {list(target.classes)}")
    return EvalSet(target, rows, target.classes)


def _eval_rows(target: Manifest, split: str) -> Indices:
    """Return the rows of a split, or all rows of a data set without splits: none of it was trained on."""
    if not target.splits():
        return np.arange(len(target))
    rows = target.in_split(split)
    if not len(rows):
        raise ValueError(
            f"{target.source}: the {split!r} split must have at least one video of the evaluated classes,"
            f" got none (splits found: {', '.join(target.splits())})"
        )
    return rows


def _spelled(manifest: Manifest, names: dict[str, str]) -> Manifest:
    labels = [names[normalized_name(label)] for label in manifest.column("label")]
    position = manifest.table.column_names.index("label")
    table = manifest.table.set_column(position, "label", pa.array(labels, pa.string()))
    return dataclasses.replace(manifest, table=table)


def _transfer(name: str, trained: Protocol, eval_sets: dict[str, EvalSet]) -> Protocol:
    """Return `trained` with other evaluation sets.

    Raises:
        ManifestError: Evaluation videos were used for training or selection, and the manifest allows no
            leaks.
    """
    # Locations and not paths, because two manifests can have different roots.
    used = {path for videos in (trained.train, trained.val) if videos is not None for path in _files(videos)}
    for videos in eval_sets.values():
        reused = [path for path in _files(videos) if path in used]
        if reused and not videos.manifest.allow_leaks:
            raise ManifestError(
                f"{videos.manifest.source}: {counted(len(reused), 'video')} of the evaluation were trained "
                f"or selected on, the first {reused[0]}; choose another split, or allow leaks to reproduce "
                "a protocol that has them"
            )
    return dataclasses.replace(trained, name=name, eval_sets=eval_sets)


def _files(videos: EvalSet) -> list[str]:
    paths = videos.manifest.column("path")
    return [str(videos.manifest.locate(paths[row])) for row in videos.rows.tolist()]
