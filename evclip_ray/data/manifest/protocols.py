"""Protocols: which videos train, which select, which are read, and among which classes. Pure.

Whoever selects never sees a video that is read: validation is held out of train, by group where there
are groups. A protocol that trains on one set and reads another takes what was trained (`closed_set`,
`few_shot`, or `already_trained` for a checkpoint) and the other set.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evclip_ray.class_names import normalized_name
from evclip_ray.data.manifest import splits
from evclip_ray.data.manifest.manifest import SPLITS, Manifest, ManifestError

Indices = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """Videos that are used together: `rows` of `manifest`, and its labels in the order of their indices."""

    manifest: Manifest
    rows: Indices
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What a protocol names.

    `classes`: what is told apart in training, in order. `train`, `select`: None where nothing is trained,
    or was trained already. `read`: by name, what is scored, each among classes of its own.
    """

    name: str
    classes: tuple[str, ...]
    train: EvalSet | None
    select: EvalSet | None
    read: dict[str, EvalSet]


def closed_set(
    manifest: Manifest,
    *,
    classes: Sequence[str] | None = None,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Protocol:
    """Train, select and read the same classes: all of them, or `classes` in their order.

    Splits that the manifest lacks are made as in `data.splits.assign_splits`; a split may be empty.

    Raises:
        ValueError: a class without a video, fewer than two classes, or splits that cannot be made.
    """
    # Split before classes are chosen: a video's split must not depend on which others are told apart.
    manifest = splits.assign_splits(
        manifest, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed
    )
    manifest, names = (manifest, manifest.classes) if classes is None else of_classes(manifest, classes)
    if len(names) < 2:
        raise ValueError(f"{manifest.source}: needs at least two labels, got {list(names)}")
    train, select, read = (EvalSet(manifest, manifest.in_split(name), names) for name in SPLITS)
    return Protocol("closed_set", names, train, select, {"test": read})


def few_shot(
    manifest: Manifest,
    *,
    shots: int,
    nested: bool = True,
    classes: Sequence[str] | None = None,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Protocol:
    """`closed_set` with K = `shots` training videos of each class, published at K = 1, 2, 4, 8 and 16.

    `nested`: the K videos are among the 2K of the same seed.

    Raises:
        ValueError: as `closed_set`, or a class with fewer than K training videos.
    """
    whole = closed_set(
        manifest, classes=classes, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed
    )
    assert whole.train is not None
    rows = splits.few_shot(whole.train.manifest, shots=shots, seed=seed, nested=nested)
    return dataclasses.replace(whole, name="few_shot", train=dataclasses.replace(whole.train, rows=rows))


def zero_shot(target: Manifest, *, split: str = "test") -> Protocol:
    """Nothing trains: `target` is read among its own classes."""
    return Protocol("zero_shot", (), None, None, {"test": _own_classes(target, split)})


def already_trained(classes: Sequence[str]) -> Protocol:
    """What a checkpoint was trained for, where its training videos are not at hand."""
    return Protocol("already_trained", tuple(classes), None, None, {})


def base_to_novel(trained: Protocol, target: Manifest, *, split: str = "test") -> Protocol:
    """Read the classes that were trained, in their order, and apart from them all others of `target`.

    The two top-1 are reported with their harmonic mean, `metrics.harmonic_mean`; `base_classes` are the
    usual ones to train.

    Raises:
        ValueError: a trained class is not in `target`, or no other is.
    """
    base, base_names = of_classes(target, trained.classes)
    known = {normalized_name(name) for name in trained.classes}
    others = [name for name in target.classes if normalized_name(name) not in known]
    if not others:
        raise ValueError(f"{target.source}: every class was trained, so none is novel; train some, read all")
    novel, novel_names = of_classes(target, others)
    read = {
        "base": EvalSet(base, _read_rows(base, split), base_names),
        "novel": EvalSet(novel, _read_rows(novel, split), novel_names),
    }
    return _reading("base_to_novel", trained, read)


def cross_dataset(trained: Protocol, target: Manifest, *, split: str = "test") -> Protocol:
    """Read another data set among its own class names, whatever was trained."""
    return _reading("cross_dataset", trained, {"test": _own_classes(target, split)})


def cross_domain(trained: Protocol, target: Manifest, *, split: str = "test") -> Protocol:
    """Read the videos of `target` whose class was trained, among the classes that the two share.

    Classes are the same when their letters and digits are, whatever the case: "Pick" and "pick". The
    side's labels are spelled as they were trained, and in that order.

    Raises:
        ValueError: fewer than two classes are shared.
    """
    there = {normalized_name(name) for name in target.classes}
    shared = [name for name in trained.classes if normalized_name(name) in there]
    if len(shared) < 2:
        raise ValueError(
            f"{target.source}: shares {len(shared)} of the {len(trained.classes)} trained classes, needs at"
            f" least two; its own are {', '.join(target.classes[:5])}, ..."
        )
    manifest, _ = of_classes(target, shared)
    manifest = _spelled(manifest, {normalized_name(name): name for name in shared})
    side = EvalSet(manifest, _read_rows(manifest, split), tuple(shared))
    return _reading("cross_domain", trained, {"test": side})


TRANSFERS: dict[str, Callable[..., Protocol]] = {
    "base_to_novel": base_to_novel,
    "cross_dataset": cross_dataset,
    "cross_domain": cross_domain,
}
"""The protocols that read another set than the one that trained it."""


def base_classes(manifest: Manifest) -> tuple[str, ...]:
    """The half of the classes with the most training videos, the larger half of an odd number.

    As in ViFi-CLIP (CVPR 2023, section 4): 26 of HMDB51's 51 and 51 of UCF101's 101. Equally frequent
    classes are taken in alphabetical order; the result is in alphabetical order.
    """
    labels = np.array(manifest.column("label"))
    rows = manifest.in_split("train")
    counts = collections.Counter((labels[rows] if len(rows) else labels).tolist())
    frequent = sorted(manifest.classes, key=lambda name: -counts[name])
    return tuple(sorted(frequent[: (len(frequent) + 1) // 2]))


def of_classes(manifest: Manifest, classes: Sequence[str]) -> tuple[Manifest, tuple[str, ...]]:
    """The videos of `classes`, and these as the manifest spells them, in the order that is given.

    Raises:
        ValueError: a class has no video, or two are spelled alike.
    """
    spelled = {normalized_name(name): name for name in manifest.classes}
    absent = [name for name in classes if normalized_name(name) not in spelled]
    if absent:
        raise ValueError(
            f"{manifest.source}: has no video of {len(absent)} of {len(classes)} classes:"
            f" {', '.join(absent[:5])}; leave them out, or give the list that names them so"
        )
    names = tuple(spelled[normalized_name(name)] for name in classes)
    if len(spelled) < len(manifest.classes) or len(set(names)) < len(names):
        raise ValueError(f"{manifest.source}: two classes differ in case or signs only; rename one")
    chosen = pc.is_in(manifest.table["label"], value_set=pa.array(names))
    return manifest.select(np.flatnonzero(chosen.to_numpy())), names


def _own_classes(target: Manifest, split: str) -> EvalSet:
    rows = _read_rows(target, split)
    if len(target.classes) < 2:
        raise ValueError(f"{target.source}: needs at least two labels, got {list(target.classes)}")
    return EvalSet(target, rows, target.classes)


def _read_rows(target: Manifest, split: str) -> Indices:
    """The rows of a split; all of a set that has no splits, since nothing of it was trained on."""
    if not target.splits():
        return np.arange(len(target))
    rows = target.in_split(split)
    if not len(rows):
        found = ", ".join(target.splits())
        raise ValueError(
            f"{target.source}: the {split!r} split must have at least one video of the classes that are read,"
            f" got none (splits found: {found})"
        )
    return rows


def _spelled(manifest: Manifest, names: dict[str, str]) -> Manifest:
    labels = [names[normalized_name(label)] for label in manifest.column("label")]
    position = manifest.table.column_names.index("label")
    table = manifest.table.set_column(position, "label", pa.array(labels, pa.string()))
    return dataclasses.replace(manifest, table=table)


def _reading(name: str, trained: Protocol, read: dict[str, EvalSet]) -> Protocol:
    """`trained`, read otherwise; a video that trained or selected is not read.

    Raises:
        ManifestError: one would be, with their number, unless the manifest allows leaks.
    """
    seen = {path for side in (trained.train, trained.select) if side is not None for path in _files(side)}
    for side in read.values():
        again = [path for path in _files(side) if path in seen]
        if again and not side.manifest.allow_leaks:
            raise ManifestError(
                f"{side.manifest.source}: {len(again)} videos that are read were trained or selected on, the"
                f" first {again[0]}; read another split, or allow leaks to reproduce a protocol that has them"
            )
    return dataclasses.replace(trained, name=name, read=read)


def _files(side: EvalSet) -> list[str]:
    paths = side.manifest.column("path")
    return [str(side.manifest.locate(paths[row])) for row in side.rows.tolist()]
