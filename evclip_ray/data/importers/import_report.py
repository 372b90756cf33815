"""Import report: the manifest of the listed videos, and every row or file that did not match."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from evclip_ray.class_names import normalized_name
from evclip_ray.config import ConfigError
from evclip_ray.data.importers.annotation_files import AnnotationError, Line
from evclip_ray.data.importers.class_names import FileNameParser
from evclip_ray.data.importers.video_files import VideoFiles
from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.manifest.validation import SCHEMA
from evclip_ray.data.storage import Place
from evclip_ray.formatting import counted


class ListedVideo(NamedTuple):
    """One row of an official list.

    Parts of video files are in seconds and parts of folders of frames in frames, so a list can have both.

    Attributes:
        line: Line of the list, for messages.
        path: Path or name in the list.
        label: Index of the class.
        split: Split, None if the list leaves the video unused.
        group: Group, None if unknown.
        start_seconds: Start of the part in a file.
        end_seconds: End of the part in a file.
        named: Class name in the annotation next to the id; without it, the file name is parsed.
        start_frame: First frame of the part in a folder of frames.
        end_frame: Frame after the last one.
        num_frames: Number of frames in the folder according to the list.
    """

    line: Line
    path: str
    label: int
    split: str | None
    group: str | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    named: str | None = None
    start_frame: int | None = None
    end_frame: int | None = None
    num_frames: int | None = None


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """Manifest of the listed videos that exist, and the problems of the import.

    Attributes:
        manifest: It can have a video or a group in two splits, see `leaks.refuse_leaks`.
        classes: All class names as words, in the official order.
        missing: Listed paths without a file.
        unlisted: Files in no list.
        duplicates: Rows that were skipped because an earlier row has the same video.
        mislabelled: Rows whose class id and class name differ; the id is used.
        miscounted: Folders with another number of frames than listed; all frames are used.
    """

    manifest: Manifest
    classes: tuple[str, ...]
    missing: tuple[str, ...]
    unlisted: tuple[str, ...]
    duplicates: tuple[str, ...]
    mislabelled: tuple[str, ...]
    miscounted: tuple[str, ...] = ()

    @property
    def is_selected_by_last_epoch(self) -> bool:
        """Whether the protocol of the lists trains on all of their training videos.

        This is so for lists without validation videos: published results on them are from models that train
        on the whole list. `data.selection=last_epoch` reproduces it.
        """
        splits = self.manifest.splits()
        return "train" in splits and "val" not in splits


def build_report(
    rows: Iterable[ListedVideo],
    classes: Sequence[str],
    *,
    root: Place,
    source: str,
    groups_from_names: bool = False,
    frames: bool = False,
    fps: float | None = None,
) -> ImportReport:
    """Search for every listed video under `root` and return the report.

    Args:
        rows: Rows of the lists.
        classes: Class names in the order of their indices.
        root: Folder or URI of the videos.
        source: Name of the data set, for messages.
        groups_from_names: Use the source video in the file name as the group of a row without one.
        frames: Prefer a folder of frames to a video file of the same name.
        fps: Frames per second of the folders of frames, None if unknown.

    Raises:
        AnnotationError: None of the listed videos exists, or the part of a file is known in frames only.
        ConfigError: `fps` is not above 0.
    """
    if fps is not None and not fps > 0:
        raise ConfigError(f"fps must be above 0, got {fps}")
    collected = _ReportBuilder(VideoFiles(root), classes, groups_from_names, frames, fps)
    for row in rows:
        collected.add(row)
    return collected.report(source)


class _ReportBuilder:
    """Builder of a report, one row at a time."""

    def __init__(
        self,
        files: VideoFiles,
        classes: Sequence[str],
        groups_from_names: bool,
        frames: bool,
        fps: float | None,
    ) -> None:
        self._frames, self._fps = frames, fps
        self._files, self._classes, self._names = files, tuple(classes), FileNameParser(classes)
        self._groups_from_names = groups_from_names
        # Key of each row of the manifest: path, split and part. `_labels` and `_groups` are parallel to it.
        self._lines: dict[tuple[Any, ...], Line] = {}
        self._labels: list[str] = []
        self._groups: list[str | None] = []
        self._used: set[str] = set()
        self._missing: list[str] = []
        self._duplicates: list[str] = []
        self._mislabelled: list[str] = []
        self._miscounted: list[str] = []

    def add(self, row: ListedVideo) -> None:
        path = self._files.find(row.path, frames=self._frames)
        if path:
            self._used.add(path)
        # An unused video is listed, so it must not appear among the unlisted files.
        if row.split is None:
            return
        facts = self._names.read(path or row.path)
        self._compare(row, row.named or (facts.label if facts else None))
        if path is None:
            self._missing.append(row.path)
            return
        part = self._part(row, path)
        # `setdefault` returns this row's line if the key is new, else the line of an earlier row.
        earlier = self._lines.setdefault((path, row.split, *part), row.line)
        if earlier is not row.line:
            self._duplicates.append(f"{row.line.where}: {path} is in {earlier.where} too")
            return
        self._labels.append(self._classes[row.label])
        self._groups.append(row.group or (facts.group if facts and self._groups_from_names else None))

    def _part(self, row: ListedVideo, path: str) -> tuple[Any, ...]:
        """Return start_seconds, end_seconds, start_frame, end_frame and fps."""
        num_present = self._files.num_frames.get(path)
        if num_present is None:
            if row.start_frame is not None and row.start_seconds is None:
                raise row.line.error(
                    f"frames become seconds of {path} by its frame rate; give the table of rates with"
                    " frame_rates=FILE, or its folder of frames"
                )
            return row.start_seconds, row.end_seconds, None, None, None
        if row.num_frames is not None and row.num_frames != num_present:
            counts = f"{path} contains {counted(num_present, 'frame')}, the list has {row.num_frames}"
            self._miscounted.append(f"{row.line.where}: {counts}")
        if row.start_frame is not None:
            return None, None, row.start_frame, row.end_frame, self._fps
        return row.start_seconds, row.end_seconds, None, None, self._fps

    def _compare(self, row: ListedVideo, name: str | None) -> None:
        label = self._classes[row.label]
        if name and name != label and normalized_name(name) != normalized_name(label):
            labels = f"{row.path} is labelled {label!r}, but named {name!r}"
            self._mislabelled.append(f"{row.line.where}: {labels}")

    def report(self, source: str) -> ImportReport:
        files = self._files
        if not self._lines:
            raise AnnotationError(_nothing_found(files.root, self._missing, len(files.paths)))
        # Official lists can have leaks. The user of the manifest decides whether to allow them.
        paths, splits, *parts = zip(*self._lines, strict=True)
        # Lists of annotations name no masks; the manifest fills the column with nulls.
        fields = [field for field in SCHEMA if field.name != "mask"]
        columns = zip(fields, (paths, self._labels, splits, self._groups, *parts), strict=True)
        table = pa.table({field.name: pa.array(values, field.type) for field, values in columns})
        return ImportReport(
            manifest=Manifest(table, files.root, source, allow_leaks=True),
            classes=self._classes,
            missing=tuple(self._missing),
            unlisted=(*sorted(files.paths - self._used), *files.unreadable),
            duplicates=tuple(self._duplicates),
            mislabelled=tuple(self._mislabelled),
            miscounted=tuple(self._miscounted),
        )


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise an error if an option of an importer is not one of its choices.

    Args:
        name: Name of the option, for the message.
        value: Its value.
        choices: Valid values.

    Raises:
        ConfigError: `value` is not valid; the message lists the choices.
    """
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def _nothing_found(root: Place, missing: Sequence[str], num_files: int) -> str:
    if not missing:
        return f"{root}: the lists name no video of this split; check them"
    return (
        f"{root}: none of the {counted(len(missing), 'listed video')} is there, the first is "
        f"{missing[0]!r}; {counted(num_files, 'other video', 'is', 'are')}. Point --root at the folder of "
        f"the videos, or of the folders of frames"
    )
