"""Importer of EPIC-KITCHENS-100: `EPIC_100_{train,validation}.csv`, parts of long videos."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from evclip_ray.data.importers.annotation_files import (
    Line,
    class_index,
    find_annotation_file,
    list_folders,
    read_table,
    whole_number,
)
from evclip_ray.data.importers.class_names import ordered_classes
from evclip_ray.data.importers.import_report import ImportReport, ListedVideo, build_report, check_choice
from evclip_ray.data.storage import Place

_TIME = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)", re.ASCII)
_COLUMNS = ("participant_id", "video_id", "start_timestamp", "stop_timestamp", "start_frame", "stop_frame")


class _Labels(NamedTuple):
    """Classes of a `kind`, and the narrated words of each class."""

    kind: str
    classes: tuple[str, ...]
    instances: list[frozenset[str]]


def import_epic_kitchens(
    root: Place,
    *,
    lists: Path | None = None,
    label: Literal["verb", "noun"] = "verb",
    group: Literal["video", "participant"] = "video",
    frames: bool = False,
    fps: float | None = None,
) -> ImportReport:
    """Import every narrated segment as a part of `<video_id>.MP4` in seconds, or of its folder of frames.

    Class names are the `key` of verb_classes.csv or noun_classes.csv. The column `verb` is the narrated word,
    and one class has many. The official validation split becomes "test", because the labels of the official
    test split are not public.

    Args:
        root: Folder of the videos or frames.
        lists: Folder of the annotations; by default annotations in or next to `root`.
        label: Classes.
        group: Group of a segment, which validation splits keep together. The official splits share most
            participants.
        frames: Prefer the folder of frames (`<video_id>/frame_0000000001.jpg`, from start_frame to
            stop_frame) to the video.
        fps: Frame rate of the folders, None if it does not matter.

    Raises:
        AnnotationError: A list is missing or invalid, or none of its videos is under `root`.
        ConfigError: The label or the group does not exist.
    """
    check_choice("label", label, ("verb", "noun"))
    check_choice("group", group, ("video", "participant"))
    folders = list_folders(root, lists, "annotations", "epic-kitchens-100-annotations")
    table = f"{label}_classes.csv"
    labels = read_labels(find_annotation_file(folders, f"EPIC_100_{table}", table), label)
    rows = [
        *_rows(find_annotation_file(folders, "EPIC_100_train.csv"), "train", labels, group),
        *_rows(find_annotation_file(folders, "EPIC_100_validation.csv"), "test", labels, group),
    ]
    source = f"epic_kitchens {label}s"
    return build_report(rows, labels.classes, root=root, source=source, frames=frames, fps=fps)


def read_labels(path: Path, kind: str) -> _Labels:
    """Return the verb or noun classes of `id,key,instances,category`.

    Raises:
        AnnotationError: A line is invalid.
    """
    rows = [
        (line, whole_number(line, cells["id"], f"the {kind} id"), cells)
        for line, cells in read_table(path, ("id", "key", "instances"))
    ]
    classes = ordered_classes(path, ((line, number, cells["key"]) for line, number, cells in rows), first=0)
    # The table lists the narrated words of each class. A word of another class shows that a label is wrong.
    words = {number: _instances(line, cells["instances"]) | {cells["key"]} for line, number, cells in rows}
    return _Labels(kind, classes, [words[number] for number in range(len(classes))])


def _instances(line: Line, text: str) -> frozenset[str]:
    """Return the set of `['take', 'grab']`."""
    try:
        names = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        names = None
    if not isinstance(names, list):
        raise line.error("instances must be a list in brackets")
    return frozenset(map(str, names))


def _rows(path: Path, split: str, labels: _Labels, group: str) -> Iterator[ListedVideo]:
    column = {"video": "video_id", "participant": "participant_id"}[group]
    word = labels.kind
    for line, cells in read_table(path, (*_COLUMNS, word, f"{word}_class")):
        label = class_index(line, cells[f"{word}_class"], len(labels.classes))
        start, stop = (_seconds(line, cells[f"{name}_timestamp"]) for name in ("start", "stop"))
        if not cells["video_id"] or stop <= start:
            raise line.error("must have a video_id, and stop after it starts")
        # Frames count from 1, and the stop frame is part of the segment.
        first, last = (whole_number(line, cells[name], name) for name in ("start_frame", "stop_frame"))
        if last < first:
            raise line.error("stop_frame must not be before start_frame")
        narrated = cells[word]
        yield ListedVideo(
            line,
            f"{cells['video_id']}.MP4",
            label,
            split,
            group=cells[column],
            start_seconds=start,
            end_seconds=stop,
            start_frame=max(first - 1, 0),
            end_frame=max(last, 1),
            named=None if narrated in labels.instances[label] else narrated,
        )


def _seconds(line: Line, text: str) -> float:
    """Return the seconds of `HH:mm:ss.SS`."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise line.error(f"a time must be HH:mm:ss.SS, got {text!r}")
    # The times have hundredths; rounding removes the error of the float sum.
    return round(int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]), 3)
