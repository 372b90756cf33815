"""From an experiment's data section to decoded videos: which rows, decoded once, opened by every run.

`plan_videos` reads the manifest and asks the protocol which rows train and select. `prepare`
decodes what is missing (through Ray) and opens the rest. The test split is never part of a plan
for training; `evaluate` asks for it by name.
"""

import dataclasses
import errno
import functools
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evclip_ray.artifacts import digest, read_json, write_json
from evclip_ray.data.importers.class_names import read_class_names
from evclip_ray.data.manifest import protocols
from evclip_ray.data.manifest.leaks import find_leaks, refuse_leaks
from evclip_ray.data.manifest.manifest import Manifest, read_manifest
from evclip_ray.data.shards.prepare import ShardSet, open_shards, prepare_shards
from evclip_ray.data.storage import Place, is_uri
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.locking import building
from evclip_ray.training.experiment import DataConfig, ExperimentConfig

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with what is done to which split, videos done, videos in all."""


@dataclasses.dataclass(frozen=True)
class VideoPlan:
    """The rows of each split that an experiment reads, and how they are decoded.

    `spread`: whether the views of a video are spread evenly over it, or drawn but for the first.
    `seconds_per_video`: what decoding one may take.
    `trained_on`: rows whose videos another manifest had in training, where leaks are allowed.
    """

    manifest: Manifest
    rows: dict[str, npt.NDArray[np.int64]]
    classes: tuple[str, ...]
    view: ViewConfig
    num_views: dict[str, int]
    spread: bool = False
    seconds_per_video: float = 600
    trained_on: frozenset[int] = frozenset()

    def folder(self, split: str, cache: Path) -> Path:
        """Where the shards of a split are or will be; the same videos and view give the same folder."""
        chosen = self.manifest.select(self.rows[split])
        key = digest(
            {
                "root": str(chosen.root.resolve() if isinstance(chosen.root, Path) else chosen.root),
                "rows": chosen.digest(),
                "view": self.view.model_dump(),
                "views": self.num_views[split],
                **({"spread": True} if self.spread else {}),
            }
        )
        return cache / "shards" / key

    @property
    def leaking_rows(self) -> int:
        """Rows that a leak reaches; 0 unless `data.allow_leaks` lets them be."""
        if not self.manifest.allow_leaks:
            return 0
        return len(self.trained_on.union(*(leak.rows for leak in find_leaks(self.manifest))))

    @property
    def key(self) -> str:
        """Digest of everything that decides which pixels a run sees."""
        return digest({split: str(self.folder(split, Path())) for split in sorted(self.rows)})


@dataclasses.dataclass(frozen=True)
class VideoSet:
    """The decoded videos of one split: shards, and the class index of each video."""

    shards: ShardSet
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def key(self) -> str:
        """Digest of which videos these are and in which order, whatever their frames."""
        return digest([self.shards.paths, self.shards.labels])


@dataclasses.dataclass(frozen=True)
class Videos:
    """The decoded splits of an experiment.

    `classes`: labels in index order; `features`: where frozen features of them are kept, if they are;
    `leaking_rows`: see `VideoPlan`, the mark of every number that comes from them.
    """

    sets: dict[str, VideoSet]
    classes: tuple[str, ...]
    features: Path | None = None
    leaking_rows: int = 0

    def save(self, path: Path) -> None:
        """Write where the shards are, for other processes to `Videos.load`."""
        folders = {split: str(found.shards.folder) for split, found in self.sets.items()}
        record = {"classes": self.classes, "folders": folders, "features": self.features}
        write_json(path, record | {"leaking_rows": self.leaking_rows})

    @classmethod
    def load(cls, path: Path) -> "Videos":
        """Open the shards that `save` wrote down."""
        record = read_json(path)
        classes = tuple(record["classes"])
        sets = {split: _open(open_shards(Path(at)), classes) for split, at in record["folders"].items()}
        features = Path(record["features"]) if record["features"] else None
        return cls(sets, classes, features, record["leaking_rows"])


def resolve_manifest(data: DataConfig, *, cache: Path, progress: Progress | None = None) -> Manifest:
    """The manifest of a data section; a synthetic set is written first where it is missing."""
    if data.synthetic is not None:
        from evclip_ray.data.synthetic import write_synthetic

        made = data.synthetic.model_dump()
        told = functools.partial(progress, "making synthetic videos") if progress else None
        return read_manifest(write_synthetic(cache / "synthetic" / digest(made), **made, progress=told))
    assert data.manifest is not None
    root = _expanded(data.root) if data.root else None
    return read_manifest(_expanded(data.manifest), root=root, allow_leaks=data.allow_leaks)


def _expanded(place: str) -> Place:
    return place if is_uri(place) else Path(place).expanduser()


def find_protocol(data: DataConfig, manifest: Manifest, *, with_shots: bool = True) -> protocols.Protocol:
    """Which videos train and select, and which are kept for the test, as a data section asks.

    `with_shots`: whether `data.shots` are drawn, which a manifest without training videos does not allow.
    """
    classes = _find_classes(data.classes, manifest)
    shares = {"val_fraction": data.val_fraction, "test_fraction": data.test_fraction}
    if data.shots is None or not with_shots:
        return protocols.closed_set(manifest, classes=classes, seed=data.split_seed, **shares)
    return protocols.few_shot(
        manifest, shots=data.shots, nested=data.nested_shots, classes=classes, seed=data.split_seed, **shares
    )


def _find_classes(choice: str | None, manifest: Manifest) -> tuple[str, ...] | None:
    if choice is None:
        return None
    if choice not in ("base", "novel"):
        return read_class_names(Path(choice).expanduser())
    base = protocols.base_classes(manifest)
    return base if choice == "base" else tuple(name for name in manifest.classes if name not in base)


def plan_videos(
    experiment: ExperimentConfig,
    *,
    cache: Path,
    splits: Sequence[str] = ("train", "val"),
    progress: Progress | None = None,
) -> VideoPlan:
    """Choose the rows of each split; `progress`: of making synthetic videos where they are missing.

    Raises:
        ValueError: an empty split, a label with fewer videos than `data.shots`, fewer than two labels.
    """
    data = experiment.data
    found = resolve_manifest(data, cache=cache, progress=progress)
    protocol = find_protocol(data, found, with_shots="train" in splits)
    sides = {"train": protocol.train, "val": protocol.select, **protocol.read}
    manifest = protocol.read["test"].manifest
    rows = {split: side.rows for split, side in sides.items() if split in splits and side is not None}
    for split, chosen in rows.items():
        if len(chosen) == 0:
            marked = ", ".join(manifest.splits()) or "none"
            raise ValueError(
                f"{manifest.source}: the {split!r} split must have at least one video, got none "
                f"(splits found: {marked}); mark some rows {split!r} in its split column"
            )
    views = {split: data.train_views if split == "train" else 1 for split in rows}
    return VideoPlan(
        manifest, rows, protocol.classes, experiment.view, views, seconds_per_video=data.seconds_per_video
    )


def prepare(
    plan: VideoPlan, *, cache: Path, nodes: Sequence[str] = (), progress: Progress | None = None
) -> Videos:
    """Decode what is missing of each split, open the rest, and say how many videos were skipped.

    `nodes`: ids of those that decode, by default any.

    Raises:
        ManifestError: two splits of the manifest share a video's bytes, and leaks are not allowed.
    """
    if not is_prepared(plan, cache):
        refuse_leaks(plan.manifest, allow=plan.manifest.allow_leaks)
    sets = {}
    for split, rows in plan.rows.items():
        folder = plan.folder(split, cache)
        with building([folder]):
            shards = prepare_shards(
                plan.manifest, rows, view=plan.view, folder=folder,
                num_views=plan.num_views[split], seed=None if plan.spread else 0,
                seconds_per_video=plan.seconds_per_video, nodes=nodes,
                progress=functools.partial(progress, f"decoding {split}") if progress else None,
            )  # fmt: skip
        if shards.skipped:
            log.warning(
                "%d of %d %s videos could not be decoded and are left out; reasons in %s",
                len(shards.skipped), len(rows), split, shards.folder / "quarantine.csv",
            )  # fmt: skip
        sets[split] = _open(shards, plan.classes)
    return Videos(sets, plan.classes, cache / "features", plan.leaking_rows)


def is_prepared(plan: VideoPlan, cache: Path) -> bool:
    """Whether every split has been decoded already."""
    return all(_is_decoded(plan.folder(split, cache)) for split in plan.rows)


def _is_decoded(folder: Path) -> bool:
    return (folder / "ledger.json").is_file()


def check_space(plans: Iterable[VideoPlan], *, cache: Path) -> None:
    """Find out before the first video, not after hours, whether the shards of all `plans` have room.

    Raises:
        OSError: they have not, with what is needed and what is free.
    """
    needed = {
        plan.folder(split, cache): len(rows) * plan.num_views[split] * int(np.prod(plan.view.shape))
        for plan in plans
        for split, rows in plan.rows.items()
    }
    missing = {folder: size for folder, size in needed.items() if not _is_decoded(folder)}
    written = sum(shard.stat().st_size for folder in missing for shard in folder.glob("shard-*"))
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if (unwritten := sum(missing.values()) - written) > free:
        raise OSError(
            errno.ENOSPC,
            f"no space for the shards of {len(missing)} sets of videos ({unwritten / 2**30:.1f} GiB are "
            f"needed, {free / 2**30:.1f} GiB are free): make room, or name another folder by --cache",
            str(cache),
        )


def _open(shards: ShardSet, classes: Sequence[str]) -> VideoSet:
    index = {label: position for position, label in enumerate(classes)}
    return VideoSet(shards, np.array([index[label] for label in shards.labels], np.int64))
