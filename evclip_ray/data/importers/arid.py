"""Importer of ARID (actions in the dark): `list_cvt/` of v1.0 and v1.5, and UG2+'s lists of v1.1."""

from collections.abc import Iterator
from pathlib import Path

from evclip_ray.class_names import split_words
from evclip_ray.data.importers.annotation_files import (
    Line,
    class_index,
    find_annotation_file,
    find_optional_file,
    list_folders,
    read_lines,
    read_table,
    whole_number,
)
from evclip_ray.data.importers.class_names import ordered_classes
from evclip_ray.data.importers.import_report import ImportReport, ListedVideo, build_report, check_choice
from evclip_ray.data.storage import Place

_ACTIONS = ("Drink", "Jump", "Pick", "Pour", "Push", "Run", "Sit", "Stand", "Turn", "Walk", "Wave")
_TABLES = ("mapping_table.txt", "mapping_table_t1.txt")
# Lists of track 1 of the UG2+ challenge. Its test labels are not public, so its validation list is the test.
_UG2 = {"train": "ARID1.1_t1_train_pub.csv", "test": "ARID1.1_t1_validation_gt_pub.csv"}
_FOLDERS = ("list_cvt", "ARID_v1_5_211015/list_cvt", "ARID_v1/list_cvt")


def import_arid(
    root: Place, *, split: int | None = None, version: str = "1.0", lists: Path | None = None
) -> ImportReport:
    """Import an official split of ARID.

    Class names come from mapping_table.txt in the folder of the lists or its parent. Without it, they are the
    eleven of the paper in alphabetical order; v1.1 has videos of some of them. Videos of the "other" lists
    are unused. There are no groups.

    Args:
        root: Folder of the videos.
        split: 1, 2 or 3 for v1.0; 0 or 1 for v1.5; 1 for v1.1. The default is 1.
        version: "1.0", "1.5", or "1.1" for the lists of the UG2+ challenge.
        lists: Folder of the lists; by default list_cvt in or next to `root`.

    Raises:
        AnnotationError: A list is missing or invalid, or none of its videos is under `root`.
        ConfigError: The version or the split does not exist.
    """
    version = str(version)
    check_choice("version", version, ("1.0", "1.1", "1.5"))
    split = 1 if split is None else split
    check_choice(f"split of ARID v{version}", split, {"1.0": (1, 2, 3), "1.1": (1,), "1.5": (0, 1)}[version])
    folders = list_folders(root, lists, *_FOLDERS)
    classes = _classes(folders)
    rows = _ug2(folders, len(classes)) if version == "1.1" else _split(folders, version, split, len(classes))
    return build_report(rows, classes, root=root, source=f"arid v{version} split {split}")


def _split(folders: list[Path], version: str, split: int, num_classes: int) -> Iterator[ListedVideo]:
    # v1.5 has one folder per split. The "other" list is called "others" in one of them.
    stem = f"split_{split}/split{split}" if version == "1.5" else f"ARID_split{split}"
    yield from _rows(find_annotation_file(folders, f"{stem}_train.txt"), "train", num_classes)
    yield from _rows(find_annotation_file(folders, f"{stem}_test.txt"), "test", num_classes)
    # Listed as unused, so that their files are not reported as unlisted.
    yield from _unused(folders, stem, num_classes)


def _ug2(folders: list[Path], num_classes: int) -> Iterator[ListedVideo]:
    """Yield the rows of `VideoID,Video,ClassID`: train videos are <class>/<file>, the others <number>.mp4."""
    for split, name in _UG2.items():
        for line, cells in read_table(find_annotation_file(folders, name), ("VideoID", "Video", "ClassID")):
            if "." not in cells["Video"]:
                raise line.error("Video must be a file, as Run/Run_1_1.mp4")
            yield ListedVideo(line, cells["Video"], class_index(line, cells["ClassID"], num_classes), split)


def _classes(folders: list[Path]) -> tuple[str, ...]:
    path = find_optional_file([parent for folder in folders for parent in (folder, folder.parent)], *_TABLES)
    if path is None:
        return tuple(split_words(name) for name in _ACTIONS)
    return ordered_classes(path, _named(path), first=0)


def _named(path: Path) -> Iterator[tuple[Line, int, str]]:
    for line in read_lines(path):
        number, *name = line.text.split(None, 1)
        yield line, whole_number(line, number, "the class id"), "".join(name)


def _rows(path: Path, split: str | None, num_classes: int) -> Iterator[ListedVideo]:
    for line in read_lines(path):
        parts = line.text.strip().split(None, 2)
        if len(parts) < 3 or "/" not in parts[2] or "." not in parts[2]:
            raise line.error("must be a row number, a class id and <class>/<file>")
        whole_number(line, parts[0], "the row number")
        yield ListedVideo(line, parts[2], class_index(line, parts[1], num_classes), split)


def _unused(folders: list[Path], stem: str, num_classes: int) -> list[ListedVideo]:
    path = find_optional_file(folders, f"{stem}_other.txt", f"{stem}_others.txt")
    return list(_rows(path, None, num_classes)) if path else []
