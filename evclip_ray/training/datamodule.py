"""Decoded videos of an experiment: each split is decoded once and opened by every run."""

import dataclasses
import errno
import functools
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evclip_ray.artifacts import digest, read_json, write_json
from evclip_ray.data.manifest.leaks import refuse_leaks
from evclip_ray.data.shards.prepare import ShardSet, open_shards, prepare_shards
from evclip_ray.formatting import binary_size, counted
from evclip_ray.locking import building
from evclip_ray.progress import Progress, stage
from evclip_ray.training.experiment import Selection
from evclip_ray.training.video_plan import VideoPlan, is_decoded

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class VideoSet:
    """Decoded videos of one split: shards, and the class index of each video."""

    shards: ShardSet
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def key(self) -> str:
        """Digest of the videos and their order. It does not depend on the frames."""
        return digest([self.shards.paths, self.shards.labels])

    @functools.cached_property
    def groups(self) -> npt.NDArray[np.int64] | None:
        """Number of each video's group (V,); None if every video is a group of its own.

        Videos without a group in the manifest are grouped by their file, because parts of one recording are
        alike.
        """
        names = [
            (False, path) if group is None else (True, group)
            for group, path in zip(self.shards.groups, self.shards.paths, strict=True)
        ]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        groups = np.array([numbers[name] for name in names], np.int64)
        return groups if len(numbers) < len(names) else None


@dataclasses.dataclass(frozen=True)
class Videos:
    """Decoded splits of an experiment.

    Attributes:
        sets: Videos by split.
        classes: Labels in index order.
        features: Folder of cached features, or None.
        leaking_rows: See `VideoPlan.leaking_rows`; written with every number that depends on them.
        rows: File of the record of rows, which checkpoints get a copy of; None if none was written.
        row_keys: Digest of the videos of each use, see `RowRecord.keys`.
        selection: See `VideoPlan`.
        folds: See `VideoPlan`. With folds, the set "val" has the training videos in their fixed view.
    """

    sets: dict[str, VideoSet]
    classes: tuple[str, ...]
    features: Path | None = None
    leaking_rows: int = 0
    rows: Path | None = None
    row_keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    selection: Selection = "validation"
    folds: int = 0

    def save(self, path: Path) -> None:
        """Write the folders of the shards, so that other processes can open them with `Videos.load`."""
        folders = {split: str(videos.shards.folder) for split, videos in self.sets.items()}
        record = {"classes": self.classes, "folders": folders, "features": self.features}
        rows = {"file": str(self.rows), "keys": dict(self.row_keys)} if self.rows else None
        selection = {"selection": self.selection, "folds": self.folds}
        write_json(path, record | {"leaking_rows": self.leaking_rows, "rows": rows, **selection})

    @classmethod
    def load(cls, path: Path) -> "Videos":
        """Open the shards that `save` recorded."""
        record = read_json(path)
        classes = tuple(record["classes"])
        sets = {
            split: _open(open_shards(Path(folder)), classes) for split, folder in record["folders"].items()
        }
        features = Path(record["features"]) if record["features"] else None
        videos = cls(
            sets,
            classes,
            features,
            record["leaking_rows"],
            selection=record.get("selection", "validation"),
            folds=record.get("folds", 0),
        )
        # Files of earlier versions have no record of rows, and all of them select on the validation split.
        rows = record.get("rows")
        return dataclasses.replace(videos, rows=Path(rows["file"]), row_keys=rows["keys"]) if rows else videos


def prepare(
    plan: VideoPlan, *, cache: Path, nodes: Sequence[str] = (), progress: Progress | None = None
) -> Videos:
    """Decode the missing videos of each split and open its shards. Logs the number of skipped videos.

    Args:
        plan: Rows of each split.
        cache: Folder of shards and cached features.
        nodes: Ids of the Ray nodes that decode; by default any.
        progress: Progress of decoding.

    Raises:
        ManifestError: Two splits contain the bytes of the same video, and leaks are not allowed.
    """
    # The check reads the bytes of the videos to find copies. Decoded splits have passed it before.
    if not is_prepared(plan, cache):
        with stage("looking for copies of videos in other splits"):
            refuse_leaks(plan.manifest, allow=plan.manifest.allow_leaks)
    sets = {}
    for split, rows in plan.rows.items():
        folder = plan.folder(split, cache)
        # Another process may prepare the same split; the second one waits and then opens the finished shards.
        with building([folder]):
            shards = prepare_shards(
                plan.manifest,
                rows,
                view=plan.view,
                folder=folder,
                num_views=plan.num_views[split],
                seed=None if plan.spread else 0,
                seconds_per_video=plan.seconds_per_video,
                nodes=nodes,
                progress=functools.partial(progress, f"decoding {split}") if progress else None,
            )
        # One damaged file must not end a study. The share of skipped videos stays visible in the log.
        if shards.skipped:
            log.warning(
                "%d of %s could not be decoded and %s skipped; see %s for the reasons",
                len(shards.skipped),
                counted(len(rows), f"{split} video"),
                "is" if len(shards.skipped) == 1 else "are",
                shards.folder / "quarantine.csv",
            )
        sets[split] = _open(shards, plan.classes)
    if plan.folds:
        # The training videos are scored in their fixed view, each by the fold that did not train on it.
        sets["val"] = sets["train"]
    return Videos(
        sets,
        plan.classes,
        cache / "features",
        plan.leaking_rows,
        selection=plan.selection,
        folds=plan.folds,
    )


def is_prepared(plan: VideoPlan, cache: Path) -> bool:
    """Return whether every split is decoded."""
    return all(is_decoded(plan.folder(split, cache)) for split in plan.rows)


def check_space(plans: Iterable[VideoPlan], *, cache: Path) -> None:
    """Check that the disk has space for the shards of all plans.

    The check runs before the first video is decoded, so that a full disk does not end hours of work.

    Raises:
        OSError: The free space is too small. The message gives the needed and the free space.
    """
    # Decoded frames are stored as uint8 without compression, so the size is exact, or that of 16:9 videos if
    # they keep their aspect ratio. Plans that share a split have the same folder and are counted once.
    needed = {
        plan.folder(split, cache): len(rows) * plan.num_views[split] * plan.view.num_bytes
        for plan in plans
        for split, rows in plan.rows.items()
    }
    missing = {folder: size for folder, size in needed.items() if not is_decoded(folder)}
    # A decoding that was interrupted left finished shards, whose space is already taken.
    written = sum(shard.stat().st_size for folder in missing for shard in folder.glob("shard-*"))
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if (unwritten := sum(missing.values()) - written) > free:
        raise OSError(
            errno.ENOSPC,
            f"no space for the shards of {counted(len(missing), 'set')} of videos ({binary_size(unwritten)} "
            f"are needed, {binary_size(free)} are free). Free some space or name another folder by --cache.",
            str(cache),
        )


def _open(shards: ShardSet, classes: Sequence[str]) -> VideoSet:
    # The protocol's order of classes defines the class indices; the shards hold labels as text.
    index = {label: position for position, label in enumerate(classes)}
    return VideoSet(shards, np.array([index[label] for label in shards.labels], np.int64))
