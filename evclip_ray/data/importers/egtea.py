"""EGTEA Gaze+: `action_annotation/{train,test}_split{1,2,3}.txt`, actions in egocentric cooking."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from evclip_ray.data.importers.annotation_files import (
    Line,
    class_index,
    find_list,
    find_optional,
    read_lines,
    whole_number,
)
from evclip_ray.data.importers.class_names import ordered_classes
from evclip_ray.data.importers.import_report import ImportReport, Listed, build_report, check_choice, places
from evclip_ray.data.storage import Place

# <session>-<start ms>-<end ms>-F<start frame>-F<end frame>; a session is person, recipe run and dish.
_CLIP = re.compile(r"(?P<prefix>(?P<session>[^-\s]+-[^-\s]+-[^-\s]+)-\d+-\d+)-F\d+-F\d+", re.ASCII)
# Where a clip's line has the id of each label; of several nouns, the first is the one that is acted on.
_COLUMNS = {"action": 0, "verb": 1, "noun": 2}
_FOLDERS = ("action_annotation", "action_annotations", "raw_annotations", "action_annotation/raw_annotations")


def import_egtea(
    root: Place, *, split: int = 1, label: Literal["action", "verb", "noun"] = "action",
    lists: Path | None = None,
) -> ImportReport:  # fmt: skip
    """The official split 1, 2 or 3, from `<session>/<clip>.mp4` somewhere under `root`.

    `label`: 106 actions, their 19 verbs, or 53 nouns (of several, the first). `lists`: the folder of the
    lists; by default action_annotation in or beside `root`. Names of actions come from
    cls_label_index.csv (ids from 0), or action_idx.txt (ids from 0 or 1), in it or in its folder
    raw_annotations; those of the others from verb_idx.txt or noun_idx.txt there. Ids in the lists count
    from 1. Where action_labels.csv is there too, its label of a clip is compared with the list's. A
    clip's group is its session.

    Raises:
        ListError: a list that is missing or broken, with its line; no video under `root`.
        ConfigError: no such split or label.
    """
    check_choice("split", split, (1, 2, 3))
    check_choice("label", label, tuple(_COLUMNS))
    folders = places(root, lists, *_FOLDERS)
    folders += [folder / "raw_annotations" for folder in folders]
    table = find_list(folders, *(["cls_label_index.csv"] if label == "action" else []), f"{label}_idx.txt")
    # Tables, of which only one was described by those who had the archive, are read leniently.
    classes = ordered_classes(table, _semicolons(table) if table.suffix == ".csv" else _name_then_id(table))
    narrated = _narrated(folders, label)
    rows = [
        row
        for name in ("train", "test")
        for row in _rows(find_list(folders, f"{name}_split{split}.txt"), name, len(classes), label, narrated)
    ]
    return build_report(rows, classes, root=root, source=f"egtea {label}s split {split}")


def _semicolons(path: Path) -> Iterator[tuple[Line, int, str]]:
    """`# Action ID; Action Label; Verb Label; Noun Label(s)`; a comma inside a label means nothing."""
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
    """Clip prefix -> action, verb or first noun, of action_labels.csv where it is there."""
    path = find_optional(folders, "action_labels.csv")
    actions: dict[str, str] = {}
    if path is None:
        return actions
    for line in read_lines(path):
        cells = [cell.strip() for cell in line.text.split(";")]
        if cells[0].startswith("#"):
            continue
        if len(cells) < 8:
            raise line.error("must have 8 cells: clip id, prefix, session, start, end, action, verb, nouns")
        said = cells[5 + _COLUMNS[label]]
        actions[cells[1]] = said.partition(",")[0] if label == "noun" else said
    return actions


def _rows(path: Path, split: str, num_classes: int, label: str, narrated: dict[str, str]) -> Iterator[Listed]:
    for line in read_lines(path):
        clip, *ids = line.text.split()
        match = _CLIP.fullmatch(clip)
        if match is None or len(ids) < 3:
            raise line.error(
                "must be <session>-<ms>-<ms>-F<frame>-F<frame> and ids of action, verb and nouns"
            )
        number = class_index(line, ids[_COLUMNS[label]], num_classes, first=1)
        yield Listed(
            line, f"{match['session']}/{clip}.mp4", number, split,
            group=match["session"], named=narrated.get(match["prefix"]),
        )  # fmt: skip
