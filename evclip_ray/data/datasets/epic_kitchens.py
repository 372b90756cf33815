"""EPIC-KITCHENS-100 verbs: `EPIC_100_{train,validation}.csv`, parts of long egocentric videos."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from evclip_ray.data.datasets.class_names import ordered_classes
from evclip_ray.data.datasets.lists import Line, class_index, find_list, read_table, whole_number
from evclip_ray.data.datasets.report import ImportReport, Listed, build_report, check_choice, places

_TIME = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)", re.ASCII)
_COLUMNS = (
    "participant_id", "video_id", "start_timestamp", "stop_timestamp", "verb", "verb_class"
)  # fmt: skip


class _Verbs(NamedTuple):
    """The classes, and the narrated verbs that each stands for."""

    classes: tuple[str, ...]
    instances: list[frozenset[str]]


def import_epic_kitchens(
    root: Path, *, lists: Path | None = None, group: Literal["video", "participant"] = "video"
) -> ImportReport:
    """Every narrated segment as the part of `<video_id>.MP4` from its start to its stop, in seconds.

    `lists`: the folder of the annotations; by default annotations in or beside `root`. The class name is
    the `key` of verb_classes.csv: the column `verb` is what was said, and one class has many. The
    official validation split is "test", as the labels of the test split are not public. `group`: kept in
    one split by whoever holds out a validation split; by participant, the official splits share most.
    Folders of frames are not carried, the decoder reads videos.

    Raises:
        ListError: a list that is missing or broken, with its line; no video under `root`.
        ConfigError: no such group.
    """
    check_choice("group", group, ("video", "participant"))
    folders = places(root, lists, "annotations", "epic-kitchens-100-annotations")
    verbs = read_verbs(find_list(folders, "EPIC_100_verb_classes.csv", "verb_classes.csv"))
    rows = [
        *_rows(find_list(folders, "EPIC_100_train.csv"), "train", verbs, group),
        *_rows(find_list(folders, "EPIC_100_validation.csv"), "test", verbs, group),
    ]
    return build_report(rows, verbs.classes, root=root, source="epic_kitchens verbs")


def read_verbs(path: Path) -> _Verbs:
    """The verb classes of `id,key,instances,category`.

    Raises:
        ListError: broken, with its line.
    """
    rows = [
        (line, whole_number(line, cells["id"], "the verb id"), cells)
        for line, cells in read_table(path, ("id", "key", "instances"))
    ]
    classes = ordered_classes(path, ((line, number, cells["key"]) for line, number, cells in rows), first=0)
    said = {number: _instances(line, cells["instances"]) | {cells["key"]} for line, number, cells in rows}
    return _Verbs(classes, [said[number] for number in range(len(classes))])


def _instances(line: Line, text: str) -> frozenset[str]:
    """`['take', 'grab']` as a set."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        found = None
    if not isinstance(found, list):
        raise line.error("instances must be a list in brackets")
    return frozenset(map(str, found))


def _rows(path: Path, split: str, verbs: _Verbs, group: str) -> Iterator[Listed]:
    column = {"video": "video_id", "participant": "participant_id"}[group]
    for line, cells in read_table(path, _COLUMNS):
        label = class_index(line, cells["verb_class"], len(verbs.classes))
        start, stop = (_seconds(line, cells[f"{name}_timestamp"]) for name in ("start", "stop"))
        if not cells["video_id"] or stop <= start:
            raise line.error("must have a video_id, and stop after it starts")
        said = cells["verb"]
        yield Listed(
            line, f"{cells['video_id']}.MP4", label, split, group=cells[column],
            start_seconds=start, end_seconds=stop,
            named=None if said in verbs.instances[label] else said,
        )  # fmt: skip


def _seconds(line: Line, text: str) -> float:
    """`HH:mm:ss.SS` in seconds."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise line.error(f"a time must be HH:mm:ss.SS, got {text!r}")
    # Hundredths are exact as written; a sum of floats would not be.
    return round(int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]), 3)
