"""ARID, actions in the dark: `list_cvt/` of v1.0 (splits 1 to 3) and of v1.5 (splits 0 and 1)."""

from collections.abc import Iterator
from pathlib import Path

from evclip_ray.data.datasets.class_names import ordered_classes, words
from evclip_ray.data.datasets.lists import (
    Line,
    class_index,
    find_list,
    find_optional,
    read_lines,
    whole_number,
)
from evclip_ray.data.datasets.report import ImportReport, Listed, build_report, check_choice, places

_ACTIONS = ("Drink", "Jump", "Pick", "Pour", "Push", "Run", "Sit", "Stand", "Turn", "Walk", "Wave")
_TABLE = "mapping_table.txt"
_FOLDERS = ("list_cvt", "ARID_v1_5_211015/list_cvt", "ARID_v1/list_cvt")


def import_arid(
    root: Path, *, split: int = 1, version: str = "1.0", lists: Path | None = None
) -> ImportReport:
    """An official split of ARID v1.0 (1, 2 or 3) or v1.5 (0 or 1).

    `lists`: the folder of the lists; by default list_cvt in or beside `root`. Class names are those of
    mapping_table.txt in or above it, else the eleven of the paper in the order of the alphabet.
    Videos of the "other" lists are unused. Names tell no group.

    Raises:
        ListError: a list that is missing or broken, with its line; no video under `root`.
        ConfigError: no such version or split.
    """
    check_choice("version", str(version), ("1.0", "1.5"))
    newer = str(version) == "1.5"
    check_choice(f"split of ARID v{version}", split, (0, 1) if newer else (1, 2, 3))
    folders = places(root, lists, *_FOLDERS)
    # Lists of v1.5 are a folder a split, whose "other" list is called "others" in one of them.
    stem = f"split_{split}/split{split}" if newer else f"ARID_split{split}"
    classes = _classes(folders)
    rows = [
        *_rows(find_list(folders, f"{stem}_train.txt"), "train", len(classes)),
        *_rows(find_list(folders, f"{stem}_test.txt"), "test", len(classes)),
        *_unused(folders, stem, len(classes)),
    ]
    return build_report(rows, classes, root=root, source=f"arid v{version} split {split}")


def _classes(folders: list[Path]) -> tuple[str, ...]:
    path = find_optional([place for folder in folders for place in (folder, folder.parent)], _TABLE)
    if path is None:
        return tuple(words(name) for name in _ACTIONS)
    return ordered_classes(path, _named(path), first=0)


def _named(path: Path) -> Iterator[tuple[Line, int, str]]:
    for line in read_lines(path):
        number, *name = line.text.split(None, 1)
        yield line, whole_number(line, number, "the class id"), "".join(name)


def _rows(path: Path, split: str | None, num_classes: int) -> Iterator[Listed]:
    for line in read_lines(path):
        parts = line.text.strip().split(None, 2)
        if len(parts) < 3 or "/" not in parts[2] or "." not in parts[2]:
            raise line.error("must be a row number, a class id and <class>/<file>")
        whole_number(line, parts[0], "the row number")
        yield Listed(line, parts[2], class_index(line, parts[1], num_classes), split)


def _unused(folders: list[Path], stem: str, num_classes: int) -> list[Listed]:
    path = find_optional(folders, f"{stem}_other.txt", f"{stem}_others.txt")
    return list(_rows(path, None, num_classes)) if path else []
