"""From the rows of official lists to a manifest, and what did not fit."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from evclip_ray.class_names import normalized_name
from evclip_ray.config import ConfigError
from evclip_ray.data.importers.annotation_files import Line, ListError
from evclip_ray.data.importers.class_names import NameReader
from evclip_ray.data.importers.video_files import VideoFiles
from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.manifest.validation import SCHEMA
from evclip_ray.data.storage import Place


class Listed(NamedTuple):
    """One video as a list has it.

    `label`: index into the classes. `split`: None where the list leaves the video unused. `named`: the
    class that the annotation says, where it says one beside the id; otherwise the file's name is read.
    A part is in seconds of a file and in frames of a folder of frames, so a list may give both.
    `num_frames`: how many a list of folders says that a folder holds.
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
    """A manifest of the listed videos that are there, and what was found on the way.

    `classes`: names as words, in the official order, whether or not they have videos. `missing`: listed
    but absent, as listed. `unlisted`: present, but in no list. `duplicates`: rows left out, as an earlier
    row has their video. `mislabelled`: rows whose class id and name disagree; they keep their id.
    `miscounted`: folders that hold another number of frames than is listed; all that they hold are read.
    The manifest may hold a video or a group in two splits: see `leaks.refuse_leaks`.
    """

    manifest: Manifest
    classes: tuple[str, ...]
    missing: tuple[str, ...]
    unlisted: tuple[str, ...]
    duplicates: tuple[str, ...]
    mislabelled: tuple[str, ...]
    miscounted: tuple[str, ...] = ()


def build_report(
    rows: Iterable[Listed],
    classes: Sequence[str],
    *,
    root: Place,
    source: str,
    groups_from_names: bool = False,
    frames: bool = False,
    fps: float | None = None,
) -> ImportReport:
    """Look for every listed video under `root`.

    `groups_from_names`: a row without a group takes the source video that its name tells, if it does.
    `frames`: whether a folder of frames is meant where a file has its name too. `fps`: frames a second
    of folders of frames, where it is known.

    Raises:
        ListError: not one of the listed videos is there, or a file's part is known in frames only.
        ConfigError: `fps` is not above 0.
    """
    if fps is not None and not fps > 0:
        raise ConfigError(f"fps must be above 0, got {fps}")
    collected = _Collected(VideoFiles(root), classes, groups_from_names, frames, fps)
    for row in rows:
        collected.add(row)
    return collected.report(source)


class _Collected:
    """The rows so far, and what did not fit."""

    def __init__(
        self,
        files: VideoFiles,
        classes: Sequence[str],
        groups_from_names: bool,
        frames: bool,
        fps: float | None,
    ) -> None:
        self._frames, self._fps = frames, fps
        self._files, self._classes, self._names = files, tuple(classes), NameReader(classes)
        self._groups_from_names = groups_from_names
        # (path, split and part) of each row of the manifest, and beside it the rest.
        self._kept: dict[tuple[Any, ...], Line] = {}
        self._labels: list[str] = []
        self._groups: list[str | None] = []
        self._used: set[str] = set()
        self._missing: list[str] = []
        self._duplicates: list[str] = []
        self._mislabelled: list[str] = []
        self._miscounted: list[str] = []

    def add(self, row: Listed) -> None:
        path = self._files.find(row.path, frames=self._frames)
        if path:
            self._used.add(path)
        if row.split is None:
            return
        facts = self._names.read(path or row.path)
        self._compare(row, row.named or (facts.label if facts else None))
        if path is None:
            self._missing.append(row.path)
            return
        part = self._part(row, path)
        earlier = self._kept.setdefault((path, row.split, *part), row.line)
        if earlier is not row.line:
            self._duplicates.append(f"{row.line.where}: {path} is in {earlier.where} too")
            return
        self._labels.append(self._classes[row.label])
        self._groups.append(row.group or (facts.group if facts and self._groups_from_names else None))

    def _part(self, row: Listed, path: str) -> tuple[Any, ...]:
        """start_seconds, end_seconds, start_frame, end_frame, fps."""
        held = self._files.num_frames.get(path)
        if held is None:
            if row.start_frame is not None and row.start_seconds is None:
                raise row.line.error(
                    f"frames become seconds of {path} by its rate; give EPIC's video_info.csv with"
                    " frame_rates=FILE, or its folder of frames"
                )
            return row.start_seconds, row.end_seconds, None, None, None
        if row.num_frames is not None and row.num_frames != held:
            told = f"{path} holds {held} frames, the list says {row.num_frames}"
            self._miscounted.append(f"{row.line.where}: {told}")
        if row.start_frame is not None:
            return None, None, row.start_frame, row.end_frame, self._fps
        return row.start_seconds, row.end_seconds, None, None, self._fps

    def _compare(self, row: Listed, said: str | None) -> None:
        label = self._classes[row.label]
        if said and said != label and normalized_name(said) != normalized_name(label):
            told = f"{row.path} is labelled {label!r}, its name says {said!r}"
            self._mislabelled.append(f"{row.line.where}: {told}")

    def report(self, source: str) -> ImportReport:
        files = self._files
        if not self._kept:
            raise ListError(_nothing_found(files.root, self._missing, len(files.paths)))
        # Official lists may leak; the one who uses the manifest decides.
        paths, splits, *parts = zip(*self._kept, strict=True)
        columns = zip(SCHEMA, (paths, self._labels, splits, self._groups, *parts), strict=True)
        table = pa.table([pa.array(values, field.type) for field, values in columns], schema=SCHEMA)
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
    """Refuse an option of an importer that is none of its choices.

    Raises:
        ConfigError: naming them.
    """
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def places(root: Place, lists: Path | None, *folders: str) -> list[Path]:
    """Where the official lists may be: `lists` alone if given, else those folders in or beside `root`.

    Raises:
        ConfigError: `root` is a URI, where lists are not looked for.
    """
    if lists is not None:
        return [lists]
    if not isinstance(root, Path):
        raise ConfigError(f"{root}: lists are not looked for in a storage; name their folder with --lists")
    near = [root, root.absolute().parent]
    return [place / folder for place, folder in itertools.product(near, (*folders, "."))]


def _nothing_found(root: Place, missing: Sequence[str], num_files: int) -> str:
    if not missing:
        return f"{root}: the lists name no video of this split; check them"
    return (
        f"{root}: none of the {len(missing)} listed videos is there, the first is {missing[0]!r}; {num_files}"
        " other videos are. Point --root at the folder of the videos, or of the folders of frames"
    )
