"""Importer of Kinetics-400, -600 and -700: `label,youtube_id,time_start,time_end,split`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from evclip_ray.data.importers.annotation_files import (
    AnnotationError,
    Line,
    Row,
    list_folders,
    read_table,
    whole_number,
)
from evclip_ray.data.importers.class_names import ordered_classes
from evclip_ray.data.importers.import_report import ImportReport, ListedVideo, build_report, check_choice
from evclip_ray.data.storage import Place

_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
_SPLITS = {
    "train": "train",
    "val": "validation",
    "validate": "validation",
    "validation": "validation",
    "test": "test",
}
_FOLDERS = ("annotations", "labels", "lists")


class _Video(NamedTuple):
    """Row of a list; `split` is train, validation or test."""

    line: Line
    label: str
    identity: str
    file: str
    split: str


def import_kinetics(
    root: Place, *, lists: Path | None = None, held_out: Literal["validation", "test"] = "validation"
) -> ImportReport:
    """Import every listed video from `<youtube id>_<start>_<end>.mp4` (six digits each) under `root`.

    The classes are the labels in alphabetical order. The group of a video is its YouTube id.

    Args:
        root: Folder of the videos.
        lists: One official CSV, or the folder with all; by default annotations in or next to `root`.
        held_out: Official split that becomes "test". With "validation", as published, the official test split
            is left out. With "test", the official validation split becomes "val".

    Raises:
        AnnotationError: A list is missing or invalid, or none of its videos is under `root`.
        ConfigError: `held_out` is unknown.
    """
    check_choice("held_out", held_out, ("validation", "test"))
    paths = _lists(root, lists)
    videos = [_video(row) for path in paths for row in read_table(path, _COLUMNS)]
    for needed in ("train", held_out):
        if all(video.split != needed for video in videos):
            raise AnnotationError(
                f"{', '.join(map(str, paths))}: no row of {needed!r}; add the CSV that lists them"
            )
    if held_out == "test":
        splits = {"train": "train", "validation": "val", "test": "test"}
    else:
        splits = {"train": "train", "validation": "test"}
    # Some copies of the test list have no labels, so unused splits do not define classes.
    first = {video.label: video.line for video in videos if video.split in splits}
    labels = sorted(first)
    classes = ordered_classes(
        paths[0], ((first[label], number, label) for number, label in enumerate(labels)), first=0
    )
    indices = {label: number for number, label in enumerate(labels)}
    # Rows of an unused split only mark their files as listed, so the class 0 of an unknown label is never
    # used.
    rows = (
        ListedVideo(
            video.line, video.file, indices.get(video.label, 0), splits.get(video.split), video.identity
        )
        for video in videos
    )
    return build_report(rows, classes, root=root, source="kinetics")


def _lists(root: Place, lists: Path | None) -> list[Path]:
    """Return the CSV files with the columns of Kinetics, from the first folder with any."""
    for folder in list_folders(root, lists, *_FOLDERS):
        csv_files = [path for path in sorted(folder.glob("*.csv")) if _is_kinetics(path)]
        if csv_files or folder.is_file():
            return csv_files or [folder]
    raise AnnotationError(
        f"no CSV with the columns {','.join(_COLUMNS)} in or next to {lists or root}; download the official"
        " lists, and name their folder with --lists"
    )


def _is_kinetics(path: Path) -> bool:
    with path.open("rb") as stream:
        header = stream.readline().decode("utf-8-sig", "replace").replace('"', "")
    return {cell.strip() for cell in header.split(",")} >= set(_COLUMNS)


def _video(row: Row) -> _Video:
    line, cells = row
    # Some copies quote the label inside its cell.
    label, identity = cells["label"].strip("\"' "), cells["youtube_id"]
    if cells["split"] not in _SPLITS:
        raise line.error(f"the split must be train, validate or test, got {cells['split']!r}")
    split = _SPLITS[cells["split"]]
    start, end = _seconds(line, cells, "time_start"), _seconds(line, cells, "time_end")
    if not identity or not 0 <= start < end:
        raise line.error("must have a youtube_id, and end after it starts")
    if not label and split != "test":
        raise line.error("the label must not be blank")
    return _Video(line, label, identity, f"{identity}_{start:06d}_{end:06d}.mp4", split)


def _seconds(line: Line, cells: Mapping[str, str], name: str) -> int:
    # Some copies write whole seconds as 12.0.
    return whole_number(line, cells[name].removesuffix(".0"), name)
