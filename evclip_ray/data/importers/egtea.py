"""Importer of EGTEA Gaze+: `action_annotation/{train,test}_split{1,2,3}.txt`."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from evclip_ray.data.importers.annotation_files import (
    Line,
    class_index,
    find_annotation_file,
    find_optional_file,
    list_folders,
    read_lines,
    whole_number,
)
from evclip_ray.data.importers.class_names import ordered_classes
from evclip_ray.data.importers.import_report import ImportReport, ListedVideo, build_report, check_choice
from evclip_ray.data.storage import Place

# <session>-<start ms>-<end ms>-F<start frame>-F<end frame>; a session is person, recipe run and dish.
_CLIP = re.compile(r"(?P<prefix>(?P<session>[^-\s]+-[^-\s]+-[^-\s]+)-\d+-\d+)-F\d+-F\d+", re.ASCII)
# Column of each label id in the line of a clip. The first of several nouns is the object of the action.
_COLUMNS = {"action": 0, "verb": 1, "noun": 2}
_FOLDERS = ("action_annotation", "action_annotations", "raw_annotations", "action_annotation/raw_annotations")


def import_egtea(
    root: Place,
    *,
    split: int = 1,
    label: Literal["action", "verb", "noun"] = "action",
    lists: Path | None = None,
) -> ImportReport:
    """Import an official split from `<session>/<clip>.mp4` anywhere under `root`.

    Names of actions come from cls_label_index.csv (ids from 0) or action_idx.txt (ids from 0 or 1), in the
    folder of the lists or in raw_annotations there. Names of verbs and nouns come from verb_idx.txt and
    noun_idx.txt. Ids in the lists count from 1. If action_labels.csv exists, its label of a clip is compared
    with that of the list. The group of a clip is its session.

    Args:
        root: Folder of the videos.
        split: 1, 2 or 3.
        label: Classes: 106 actions, their 19 verbs, or 53 nouns (the first of several).
        lists: Folder of the lists; by default action_annotation in or next to `root`.

    Raises:
        AnnotationError: A list is missing or invalid, or none of its videos is under `root`.
        ConfigError: The split or the label does not exist.
    """
    check_choice("split", split, (1, 2, 3))
    check_choice("label", label, tuple(_COLUMNS))
    folders = list_folders(root, lists, *_FOLDERS)
    folders += [folder / "raw_annotations" for folder in folders]
    table = find_annotation_file(
        folders, *(["cls_label_index.csv"] if label == "action" else []), f"{label}_idx.txt"
    )
    # Only one of the tables is documented, so ids from 0 and from 1 are accepted.
    classes = ordered_classes(table, _semicolons(table) if table.suffix == ".csv" else _name_then_id(table))
    narrated = _narrated(folders, label)
    rows = [
        row
        for name in ("train", "test")
        for row in _rows(
            find_annotation_file(folders, f"{name}_split{split}.txt"), name, len(classes), label, narrated
        )
    ]
    return build_report(rows, classes, root=root, source=f"egtea {label}s split {split}")


def _semicolons(path: Path) -> Iterator[tuple[Line, int, str]]:
    """Yield the classes of `# Action ID; Action Label; Verb Label; Noun Label(s)`."""
    for line in read_lines(path):
        cells = [cell.strip() for cell in line.text.split(";")]
        if cells[0].startswith("#"):
            continue
        if len(cells) < 2:
            raise line.error("must be an action id; an action label; a verb; nouns")
        yield line, whole_number(line, cells[0], "the class id"), cells[1]


def _name_then_id(path: Path) -> Iterator[tuple[Line, int, str]]:
    for line in read_lines(path):
        *name, number = line.text.split()
        yield line, whole_number(line, number, "the class id"), " ".join(name)


def _narrated(folders: list[Path], label: str) -> dict[str, str]:
    """Return clip prefix -> action, verb or first noun from action_labels.csv, empty without that file."""
    path = find_optional_file(folders, "action_labels.csv")
    actions: dict[str, str] = {}
    if path is None:
        return actions
    for line in read_lines(path):
        cells = [cell.strip() for cell in line.text.split(";")]
        if cells[0].startswith("#"):
            continue
        if len(cells) < 8:
            raise line.error("must have 8 cells: clip id, prefix, session, start, end, action, verb, nouns")
        narrated = cells[5 + _COLUMNS[label]]
        actions[cells[1]] = narrated.partition(",")[0] if label == "noun" else narrated
    return actions


def _rows(
    path: Path, split: str, num_classes: int, label: str, narrated: dict[str, str]
) -> Iterator[ListedVideo]:
    for line in read_lines(path):
        clip, *ids = line.text.split()
        match = _CLIP.fullmatch(clip)
        if match is None or len(ids) < 3:
            raise line.error(
                "must be <session>-<ms>-<ms>-F<frame>-F<frame> and ids of action, verb and nouns"
            )
        number = class_index(line, ids[_COLUMNS[label]], num_classes, first=1)
        yield ListedVideo(
            line,
            f"{match['session']}/{clip}.mp4",
            number,
            split,
            group=match["session"],
            named=narrated.get(match["prefix"]),
        )
