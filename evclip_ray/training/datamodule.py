"""Decoded videos of an experiment: the rows of each split, decoded once and opened by every run.

`plan_videos` reads the manifest and lets the protocol choose the rows that train and select. `prepare`
decodes missing videos through Ray and opens the others. A plan for training never contains the test
split; only `evaluate` requests it by name.
"""

import dataclasses
import errno
import functools
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evclip_ray.artifacts import LEDGER, digest, read_json, write_json
from evclip_ray.config import ConfigError, nearest
from evclip_ray.data.importers.class_names import read_class_names
from evclip_ray.data.manifest import folds, protocols
from evclip_ray.data.manifest.label_names import name_labels, warn_of_numbers
from evclip_ray.data.manifest.leaks import find_leaks, refuse_leaks
from evclip_ray.data.manifest.located_files import check_files
from evclip_ray.data.manifest.manifest import Manifest, read_manifest
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.data.shards.prepare import ShardSet, open_shards, prepare_shards, videos_digest
from evclip_ray.data.storage import Place, is_uri
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.formatting import binary_size, counted
from evclip_ray.locking import building
from evclip_ray.progress import Progress, stage
from evclip_ray.training.experiment import DataConfig, ExperimentConfig, Selection, SyntheticConfig
from evclip_ray.training.same_labels import resolve_same_labels

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class VideoPlan:
    """Rows of each split that an experiment reads, and the settings of decoding.

    Attributes:
        manifest: List of videos.
        rows: Rows of the manifest by split.
        classes: Labels in index order.
        view: Sampling and size of a view.
        num_views: Temporal views of a video, by split.
        spread: Whether the views of a video are spread evenly; otherwise all but the first are random.
        seconds_per_video: Time limit of decoding one video, in seconds.
        trained_on: Rows whose videos another manifest has in training, if leaks are allowed.
        selection: How the checkpoint of a run is chosen, see `DataConfig.selection`.
        folds: Folds of the cross-validation over the training videos; 0 without one.
        held_out: Training videos of the list that were held out of its training split for validation.
        reason: Reason of a selection that was not set, for messages.
        legacy: Whether the videos are those that version 0.1 chose.
    """

    manifest: Manifest
    rows: dict[str, npt.NDArray[np.int64]]
    classes: tuple[str, ...]
    view: ViewConfig
    num_views: dict[str, int]
    spread: bool = False
    seconds_per_video: float = 600
    trained_on: frozenset[int] = frozenset()
    selection: Selection = "validation"
    folds: int = 0
    held_out: int = 0
    reason: str = ""
    legacy: bool = False

    @property
    def num_selecting(self) -> int:
        """Number of videos that select: the validation videos, or all training videos, each out of fold."""
        return len(self.rows.get("val", self.rows["train"] if self.folds else ()))

    @property
    def selection_record(self) -> dict[str, Any]:
        """Selection and numbers of videos, for a ledger."""
        train = len(self.rows["train"])
        return {
            "selection": self.selection,
            "folds": self.folds,
            "train_videos": train,
            "val_videos": self.num_selecting,
            "val_per_train": round(self.num_selecting / train, 4),
        }

    @property
    def selection_warning(self) -> str | None:
        """Warning about more validation than training videos, or None."""
        train, val = len(self.rows["train"]), self.num_selecting
        if self.selection != "validation" or val <= train:
            return None
        return (
            f"{counted(val, 'validation video', 'selects', 'select')} what "
            f"{counted(train, 'video', 'trains', 'train')}. To use no more labels than the "
            "training has, set data.selection to kshot_validation (with data.val_shots) or to last_epoch"
        )

    def selection_lines(self) -> list[str]:
        """Return the selection with its numbers of videos, and then a warning if they are questionable."""
        train, val = len(self.rows["train"]), self.num_selecting
        counts = (
            f"{counted(val, 'validation video')} for {counted(train, 'training video')} (ratio "
            f"{val / train:.2f})"
        )
        if self.selection != "last_epoch":
            first = counts
        elif self.folds:
            first = (
                f"last epoch on all {counted(train, 'training video')}, scored by {self.folds}-fold "
                f"cross-validation"
            )
        elif val:
            first = f"last epoch; scores are measured on {counts}"
        else:
            first = (
                f"last epoch on all {counted(train, 'training video')}; no validation videos, so no scores"
            )
        reason = f", because {self.reason}" if self.reason else ""
        lines = [f"{first} (data.selection={self.selection}{reason})"]
        if self.selection_warning:
            lines.append(f"WARNING: {self.selection_warning}")
        elif self.held_out and self.selection != "last_epoch":
            lines.append(
                f"{counted(self.held_out, 'video', 'is', 'are')} held out of the training split of the list; "
                "data.selection=last_epoch trains on all of them"
            )
        return lines

    def folder(self, split: str, cache: Path) -> Path:
        """Return the folder of a split's shards. The same videos and view give the same folder.

        If the shards there were made from other files, or from rows with other numbers, because the list has
        changed, another folder is returned. Both lists then have their shards.
        """
        if (split, cache) not in self._folders:
            folder = cache / "shards" / self._shards_key(split)
            if _is_decoded(folder):
                videos = videos_digest(self.manifest, self.rows[split])
                if read_json(folder / LEDGER)["inputs"].get("videos") != videos:
                    folder = folder.with_name(f"{folder.name}-{videos}")
            self._folders[split, cache] = folder
        return self._folders[split, cache]

    @functools.cached_property
    def _folders(self) -> dict[tuple[str, Path], Path]:
        # Comparing the files with a ledger takes a `stat` for each, so it is done once for a plan.
        return {}

    def _shards_key(self, split: str) -> str:
        chosen = self.manifest.select(self.rows[split])
        return digest(
            {
                "root": str(chosen.root.resolve() if isinstance(chosen.root, Path) else chosen.root),
                "rows": chosen.digest(),
                "view": self.view.model_dump(),
                "views": self.num_views[split],
                # The key is added only when set, so that the folders of existing caches keep their names.
                **({"spread": True} if self.spread else {}),
            }
        )

    @property
    def leaking_rows(self) -> int:
        """Number of rows affected by leaks between splits; 0 unless `data.allow_leaks` is set."""
        if not self.manifest.allow_leaks:
            return 0
        return len(self.trained_on.union(*(leak.rows for leak in find_leaks(self.manifest))))

    @property
    def key(self) -> str:
        """Digest of everything that determines the pixels of a run."""
        return digest({split: str(Path("shards") / self._shards_key(split)) for split in sorted(self.rows)})


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


def resolve_manifest(data: DataConfig, *, cache: Path, progress: Progress | None = None) -> Manifest:
    """Read the manifest of a data section. Missing videos of the small world are written first.

    Args:
        data: Data section of an experiment.
        cache: Folder of the small world's videos.
        progress: Progress of writing them.

    Raises:
        ConfigError: The data are the synthetic videos of version 0.1, and they are not in the cache.
    """
    if data.world is not None:
        from evclip_ray.world.data_set import world_folder, write_world

        report = functools.partial(progress, "drawing videos") if progress else None
        return read_manifest(write_world(world_folder(data.world, cache), data.world, progress=report))
    if data.synthetic is not None:
        return _synthetic_manifest(data.synthetic, cache)
    assert data.manifest is not None
    root = _expanded(data.root) if data.root else None
    listed = read_manifest(
        _expanded(data.manifest), root=root, allow_leaks=data.allow_leaks, columns=data.columns
    )
    return listed if data.class_names is None else name_labels(listed, Path(data.class_names))


def list_videos(
    experiment: ExperimentConfig,
    *,
    cache: Path,
    allow_same_labels: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Read the manifest of an experiment, with `data.merge_labels` applied, see `resolve_same_labels`.

    Args:
        experiment: Settings of the run.
        cache: Folder of the small world's videos.
        allow_same_labels: Whether labels that CLIP reads as the same text are logged instead of refused.
        progress: Progress of drawing missing videos of the small world.
    """
    data = experiment.data
    listed = resolve_manifest(data, cache=cache, progress=progress)
    if not allow_same_labels:
        warn_of_numbers(listed)
    return resolve_same_labels(
        listed, merge=data.merge_labels, backbone=experiment.backbone.name, allow=allow_same_labels
    )


def _synthetic_manifest(settings: SyntheticConfig, cache: Path) -> Manifest:
    """Read the synthetic videos that version 0.1 left in the cache, for its studies and checkpoints."""
    path = cache / "synthetic" / digest(settings.model_dump()) / "manifest.csv"
    if not path.is_file():
        raise ConfigError(
            f"data.synthetic: replaced by data.world in version 0.2, and {path} does not exist. Name the "
            "cache that has these videos by --cache, or use other ones: --set data.synthetic=null "
            "--set data.world.domain=plain, or --data FILE."
        )
    return read_manifest(path)


def _expanded(place: str) -> Place:
    return place if is_uri(place) else Path(place).expanduser()


def find_protocol(
    data: DataConfig,
    manifest: Manifest,
    *,
    with_shots: bool = True,
    recorded: RowRecord | None = None,
    legacy: bool = False,
) -> protocols.Protocol:
    """Return the videos that train, select and test under the settings of a data section.

    Args:
        data: Data section of an experiment.
        manifest: List of videos.
        with_shots: Whether to draw `data.shots` videos per class. A manifest without training videos
            cannot be drawn from.
        recorded: Earlier record, whose videos keep their splits.
        legacy: Whether videos are chosen as by versions that recorded no rows: splits are drawn in another
            way, and all validation videos select.
    """
    classes = _find_classes(data.classes, manifest)
    selection = find_selection(data, manifest, recorded=recorded, legacy=legacy)
    shares: dict[str, Any] = {
        "val_fraction": data.val_fraction,
        "test_fraction": data.test_fraction,
    }
    if recorded is not None:
        shares["recorded"] = recorded.assignment()
    if legacy:
        shares["legacy"] = True
    if selection == "last_epoch":
        shares["hold_out_val"] = False
    seed, nested = data.split_seed, data.nested_shots
    if data.shots is None or not with_shots:
        protocol = protocols.closed_set(manifest, classes=classes, seed=seed, **shares)
    else:
        protocol = protocols.few_shot(
            manifest, shots=data.shots, nested=nested, classes=classes, seed=seed, **shares
        )
    val_shots = data.val_shots or data.shots
    if selection == "kshot_validation" and val_shots is not None:
        return protocols.with_val_shots(protocol, shots=val_shots, seed=seed, nested=nested)
    return protocol


def find_selection(
    data: DataConfig, manifest: Manifest, *, recorded: RowRecord | None = None, legacy: bool = False
) -> Selection:
    """Return how the checkpoint of a run is chosen: as set, or as the data ask for.

    Args:
        data: Data section of an experiment.
        manifest: List of videos, as it was read.
        recorded: See `find_protocol`. Whether it has validation videos takes the place of what the list asks
            for, because one more video would change that.
        legacy: See `find_protocol`.
    """
    if legacy:
        return "validation"
    if data.selection is not None:
        return data.selection
    if data.folds is not None:
        return "last_epoch"
    if data.val_shots is not None:
        return "kshot_validation"
    if recorded is not None and recorded.legacy:
        return "validation"
    if recorded is not None:
        trains_on_all = not recorded.has_validation
    else:
        shots = protocols.published_shots(manifest)
        # All K shots of a published list are requested, whether or not K is also set.
        trains_on_all = shots is not None and data.shots in (None, shots)
    if trains_on_all:
        return "last_epoch"
    return "validation" if data.shots is None else "kshot_validation"


def _find_classes(choice: str | None, manifest: Manifest) -> tuple[str, ...] | None:
    if choice is None:
        return None
    if choice not in ("base", "novel"):
        return read_class_names(Path(choice).expanduser())
    # "novel" is the complement of "base", so that the two never overlap.
    base = protocols.base_classes(manifest)
    return base if choice == "base" else tuple(name for name in manifest.classes if name not in base)


def plan_videos(
    experiment: ExperimentConfig,
    *,
    cache: Path,
    splits: Sequence[str] = ("train", "val"),
    recorded: RowRecord | None = None,
    legacy: bool = False,
    cross_validate: bool = False,
    whole_if_unmarked: bool = False,
    progress: Progress | None = None,
) -> VideoPlan:
    """Choose the rows of each split. Without validation videos, there is no split "val" in the plan.

    A sample of the chosen files is looked for, so that wrong paths are found before anything starts.

    Args:
        experiment: Settings of the run.
        cache: Folder of the small world's videos.
        splits: Splits to plan.
        recorded: See `find_protocol`.
        legacy: See `find_protocol`.
        cross_validate: Whether a run must have a score. Where 'last_epoch' leaves no validation videos, it is
            measured by cross-validation over the training videos.
        whole_if_unmarked: Whether a list without splits is read whole, as the only split of `splits`. Its
            videos are then in no split of the manifest.
        progress: Progress of drawing missing videos of the small world.

    Raises:
        ValueError: A split is empty, a label has fewer videos than `data.shots`, there are fewer than two
            labels, a class has too few training videos for cross-validation, CLIP reads two labels as the
            same text, or all of a sample of the files are missing.
    """
    data = experiment.data
    # Evaluations predict the classes of a checkpoint, and a begun run goes on with the classes that it has.
    is_new = "train" in splits and recorded is None and not legacy
    listed = list_videos(experiment, cache=cache, allow_same_labels=not is_new, progress=progress)
    if whole_if_unmarked and not listed.splits():
        return _whole_plan(experiment, listed, splits)
    protocol = find_protocol(data, listed, with_shots="train" in splits, recorded=recorded, legacy=legacy)
    eval_sets = {"train": protocol.train, "val": protocol.val, **protocol.eval_sets}
    if unknown := [split for split in splits if split not in eval_sets]:
        raise ConfigError(
            f"split {unknown[0]!r} is unknown; {nearest(unknown[0], list(eval_sets))} (splits in "
            f"{listed.source}: {', '.join(listed.splits()) or 'none, they are drawn'})"
        )
    # The protocol may have assigned missing splits, so its manifest replaces the one that was read.
    manifest = protocol.eval_sets["test"].manifest
    # Only the requested splits enter the plan: a training run has no access to the rows of the test split.
    rows = {
        split: chosen.rows for split, chosen in eval_sets.items() if split in splits and chosen is not None
    }
    selection = find_selection(data, listed, recorded=recorded, legacy=legacy)
    marked_splits = listed.splits()
    held_out = len(manifest.in_split("val")) if marked_splits and "val" not in marked_splits else 0
    num_folds = 0
    if selection == "last_epoch" and "train" in rows and not len(rows.get("val", ())):
        rows.pop("val", None)
        num_folds = _count_folds(data, manifest, rows["train"]) if cross_validate else 0
    elif data.folds is not None and "train" in rows:
        raise ValueError(
            f"{manifest.source}: data.folds ({data.folds}) has no effect, because the list has "
            f"{counted(len(rows['val']), 'validation video')}, which score the runs. Remove data.folds and "
            "set data.selection=last_epoch, or mark these videos as 'train'."
        )
    for split, split_rows in rows.items():
        if len(split_rows) == 0 and not marked_splits:
            raise ValueError(_too_few(listed, data, split))
        if len(split_rows) == 0:
            marked = ", ".join(manifest.splits()) or "none"
            instead = (
                ", or set data.selection=last_epoch, which holds no video out of train"
                if split == "val" and selection != "last_epoch"
                else ""
            )
            raise ValueError(
                f"{manifest.source}: the {split!r} split is empty (splits in the list: {marked}). "
                f"Mark some rows as {split!r} in the column `split`{instead}."
            )
    check_videos(experiment, manifest, rows)
    views = {split: data.train_views if split == "train" else 1 for split in rows}
    return VideoPlan(
        manifest,
        rows,
        protocol.classes,
        experiment.view,
        views,
        seconds_per_video=data.seconds_per_video,
        selection=selection,
        folds=num_folds,
        held_out=held_out,
        reason="" if data.selection == selection else _reason(data, listed, selection),
        legacy=legacy or (recorded is not None and recorded.legacy),
    )


def _too_few(listed: Manifest, data: DataConfig, split: str) -> str:
    """Return the message about a drawn split that is empty."""
    groups = pc.coalesce(listed.table["group"], listed.table["path"])
    table = pa.table({"label": listed.table["label"], "group": groups})
    sizes = table.group_by("label").aggregate([("group", "count_distinct")])
    least = pc.min(sizes["group_count_distinct"]).as_py()
    needed = 2 + (data.test_fraction > 0)
    kind = "video" if listed.table["group"].null_count == len(listed) else "group"
    fixes = ["data.test_fraction=0, which needs 2"] * (needed == 3 and split != "test")
    fixes += ["data.selection=last_epoch, which holds no video out of train"] * (split == "val")
    instead = "".join(f", or set {fix}" for fix in fixes)
    return (
        f"{listed.source}: no video is left for the {split!r} split: of "
        f"{counted(len(listed.classes), 'class')}, the"
        f" smallest has {counted(least, kind)}, and {needed} per class are needed. Add videos{instead}."
    )


def _whole_plan(experiment: ExperimentConfig, listed: Manifest, splits: Sequence[str]) -> VideoPlan:
    (split,) = splits
    chosen = protocols.whole(listed, classes=_find_classes(experiment.data.classes, listed))
    rows = {split: chosen.rows}
    check_videos(experiment, chosen.manifest, rows)
    seconds = experiment.data.seconds_per_video
    return VideoPlan(
        chosen.manifest, rows, chosen.classes, experiment.view, {split: 1}, seconds_per_video=seconds
    )


def check_videos(
    experiment: ExperimentConfig, manifest: Manifest, rows: Mapping[str, npt.NDArray[np.int64]]
) -> None:
    """Check that a sample of the files of some rows exists, see `check_files`.

    Raises:
        ManifestError: All of the sample are missing.
    """
    # The other sources have just been written to the cache.
    # No rows are needed to import a checkpoint.
    if experiment.data.manifest is not None and rows:
        chosen = np.unique(np.concatenate(list(rows.values())))
        check_files(manifest.column("path"), chosen, manifest.root, manifest.source)


def check_source(experiment: ExperimentConfig, *, cache: Path) -> None:
    """Read the manifest of an experiment and look for a sample of its files, before Ray is started.

    Args:
        experiment: Settings of the run.
        cache: Folder of the small world's videos, which are not drawn yet and not checked.

    Raises:
        ManifestError: The manifest is invalid, or all of the sample are missing.
    """
    if experiment.data.manifest is not None:
        listed = resolve_manifest(experiment.data, cache=cache)
        check_videos(experiment, listed, {"all": np.arange(len(listed))})


def _reason(data: DataConfig, listed: Manifest, selection: Selection) -> str:
    """Return the reason of a selection that was not set; empty for the usual one."""
    if selection == "kshot_validation":
        return "data.val_shots is set" if data.val_shots else "data.shots is set"
    if selection == "last_epoch":
        shots = protocols.published_shots(listed)
        if data.folds or shots is None:
            return "data.folds is set" if data.folds else "the recorded videos have no validation split"
        return f"the list has {counted(shots, 'training video')} of each class"
    return ""


def _count_folds(data: DataConfig, manifest: Manifest, rows: npt.NDArray[np.int64]) -> int:
    columns = {name: manifest.column(name) for name in ("label", "group", "path")}
    labels, groups, paths = ([values[row] for row in rows.tolist()] for values in columns.values())
    whole = [group or path for group, path in zip(groups, paths, strict=True)]
    return folds.count_folds(labels, whole, data.folds, source=manifest.source)


def record_rows(
    plan: VideoPlan, *, known: RowRecord | None = None, progress: Progress | None = None
) -> RowRecord:
    """Record the rows of a plan by content.

    Args:
        plan: Rows of each split.
        known: Earlier record; its untouched files are not read again.
        progress: Progress of reading the other files.
    """
    report = functools.partial(progress, "comparing videos") if progress else None
    return RowRecord.of(plan.manifest, plan.rows, known=known, legacy=plan.legacy, progress=report)


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
    return all(_is_decoded(plan.folder(split, cache)) for split in plan.rows)


def _is_decoded(folder: Path) -> bool:
    return (folder / LEDGER).is_file()


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
    missing = {folder: size for folder, size in needed.items() if not _is_decoded(folder)}
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
