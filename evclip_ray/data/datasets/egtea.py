"""EGTEA Gaze+: `action_annotation/{train,test}_split{1,2,3}.txt`, 106 actions in egocentric cooking."""

import re
from collections.abc import Iterator
from pathlib import Path

from evclip_ray.data.datasets.class_names import ordered_classes
from evclip_ray.data.datasets.lists import (
    Line,
    class_index,
    find_list,
    find_optional,
    read_lines,
    whole_number,
)
from evclip_ray.data.datasets.report import ImportReport, Listed, build_report, check_choice, places

# <session>-<start ms>-<end ms>-F<start frame>-F<end frame>; a session is person, recipe run and dish.
_CLIP = re.compile(r"(?P<prefix>(?P<session>[^-\s]+-[^-\s]+-[^-\s]+)-\d+-\d+)-F\d+-F\d+", re.ASCII)
_FOLDERS = ("action_annotation", "action_annotations", "raw_annotations", "action_annotation/raw_annotations")


def import_egtea(root: Path, *, split: int = 1, lists: Path | None = None) -> ImportReport:
    """The official split 1, 2 or 3, from `<session>/<clip>.mp4` somewhere under `root`.

    `lists`: the folder of the lists; by default action_annotation in or beside `root`. Class names come
    from cls_label_index.csv (ids from 0), or action_idx.txt (ids from 0 or 1), in it or in its folder
    raw_annotations; ids in the lists count from 1. Where action_labels.csv is there too, its action of a
    clip is compared with the list's. A clip's group is its session.

    Raises:
        ListError: a list that is missing or broken, with its line; no video under `root`.
        ConfigError: no such split.
    """
    check_choice("split", split, (1, 2, 3))
    folders = places(root, lists, *_FOLDERS)
    folders += [folder / "raw_annotations" for folder in folders]
    table = find_list(folders, "cls_label_index.csv", "action_idx.txt")
    # Both tables, of which only one was described by those who had the archive, are read leniently.
    classes = ordered_classes(table, _semicolons(table) if table.suffix == ".csv" else _name_then_id(table))
    train, test = find_list(folders, f"train_split{split}.txt"), find_list(folders, f"test_split{split}.txt")
    narrated = _narrated(folders)
    rows = [*_rows(train, "train", len(classes), narrated), *_rows(test, "test", len(classes), narrated)]
    return build_report(rows, classes, root=root, source=f"egtea split {split}")


def _semicolons(path: Path) -> Iterator[tuple[Line, int, str]]:
    """`# Action ID; Action Label; Verb Label; Noun Label(s)`; a comma inside a label means nothing."""
    for line in read_lines(path):
        cells = [cell.strip() for cell in line.text.split(";")]
        if cells[0].startswith("#"):
            continue
        if len(cells) < 2:
            raise line.error("must be an action id; an action label; a verb; nouns")
        yield line, whole_number(line, cells[0], "the action id"), cells[1]


def _name_then_id(path: Path) -> Iterator[tuple[Line, int, str]]:
    for line in read_lines(path):
        *name, number = line.text.split()
        yield line, whole_number(line, number, "the action id"), " ".join(name)


def _narrated(folders: list[Path]) -> dict[str, str]:
    """Clip prefix -> action, of action_labels.csv where it is there."""
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
        actions[cells[1]] = cells[5]
    return actions


def _rows(path: Path, split: str, num_classes: int, narrated: dict[str, str]) -> Iterator[Listed]:
    for line in read_lines(path):
        clip, *ids = line.text.split()
        match = _CLIP.fullmatch(clip)
        if match is None or len(ids) < 3:
            raise line.error(
                "must be <session>-<ms>-<ms>-F<frame>-F<frame> and ids of action, verb and nouns"
            )
        label = class_index(line, ids[0], num_classes, first=1)
        yield Listed(
            line, f"{match['session']}/{clip}.mp4", label, split,
            group=match["session"], named=narrated.get(match["prefix"]),
        )  # fmt: skip
