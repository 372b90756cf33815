"""Plan of the videos of an experiment: the rows of each split and the settings of decoding."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evclip_ray.artifacts import LEDGER, digest, read_json
from evclip_ray.config import ConfigError, nearest
from evclip_ray.data.manifest import folds, protocols
from evclip_ray.data.manifest.leaks import find_leaks
from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.data.shards.prepare import videos_digest
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.formatting import counted
from evclip_ray.progress import Progress
from evclip_ray.training.experiment import DataConfig, ExperimentConfig, Selection
from evclip_ray.training.selection import find_classes, find_protocol, find_selection, selection_reason
from evclip_ray.training.video_lists import check_videos, list_videos


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
            if is_decoded(folder):
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


def is_decoded(folder: Path) -> bool:
    """Return whether a folder has finished shards."""
    return (folder / LEDGER).is_file()


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
        reason="" if data.selection == selection else selection_reason(data, listed, selection),
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
    chosen = protocols.whole(listed, classes=find_classes(experiment.data.classes, listed))
    rows = {split: chosen.rows}
    check_videos(experiment, chosen.manifest, rows)
    seconds = experiment.data.seconds_per_video
    return VideoPlan(
        chosen.manifest, rows, chosen.classes, experiment.view, {split: 1}, seconds_per_video=seconds
    )


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
