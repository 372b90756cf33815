"""Importer of UCF101: `ucfTrainTestlist/{classInd,trainlist01,testlist01}.txt`, three official splits."""

import re
from collections.abc import Iterator
from pathlib import Path

from evclip_ray.class_names import normalized_name
from evclip_ray.data.importers.annotation_files import (
    Line,
    class_index,
    find_annotation_file,
    list_folders,
    read_lines,
    whole_number,
)
from evclip_ray.data.importers.class_names import ordered_classes
from evclip_ray.data.importers.import_report import ImportReport, ListedVideo, build_report, check_choice
from evclip_ray.data.storage import Place

# The folder HandstandPushups contains files called v_HandStandPushups, so names are normalized.
_VIDEO = re.compile(r"(?P<folder>[^/]+)/v_[^/]+_g\d+_c\d+\.avi", re.ASCII)


def import_ucf101(root: Place, *, split: int = 1, lists: Path | None = None) -> ImportReport:
    """Import an official split from `<class>/v_<class>_gNN_cNN.avi` anywhere under `root`.

    The group of a video is its class and gNN, the source that its clips were cut from.

    Args:
        root: Folder of the videos.
        split: 1, 2 or 3.
        lists: Folder of classInd.txt and the lists; by default ucfTrainTestlist in or next to `root`.

    Raises:
        AnnotationError: A list is missing or invalid, or none of its videos is under `root`.
        ConfigError: The split does not exist.
    """
    check_choice("split", split, (1, 2, 3))
    folders = list_folders(
        root, lists, "ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist"
    )
    classes = _classes(find_annotation_file(folders, "classInd.txt"))
    train = find_annotation_file(folders, f"trainlist0{split}.txt")
    test = find_annotation_file(folders, f"testlist0{split}.txt")
    rows = [*_rows(train, "train", classes), *_rows(test, "test", classes)]
    return build_report(rows, classes, root=root, source=f"ucf101 split {split}", groups_from_names=True)


def _classes(path: Path) -> tuple[str, ...]:
    def named() -> Iterator[tuple[Line, int, str]]:
        for line in read_lines(path):
            number, _, name = line.text.strip().partition(" ")
            yield line, whole_number(line, number, "the class id"), name.strip()

    return ordered_classes(path, named(), first=1)


def _rows(path: Path, split: str, classes: tuple[str, ...]) -> Iterator[ListedVideo]:
    indices = {normalized_name(name): index for index, name in enumerate(classes)}
    for line in read_lines(path):
        video, _, number = line.text.strip().partition(".avi")
        match = _VIDEO.fullmatch(f"{video}.avi")
        if match is None or ".avi" not in line.text:
            raise line.error("must be <class>/v_<class>_gNN_cNN.avi and, when it trains, a class id")
        # Test lists have no class id, so the class is that of the folder.
        if number.strip() or split == "train":
            label = class_index(line, number.strip(), len(classes), first=1)
        elif normalized_name(match["folder"]) in indices:
            label = indices[normalized_name(match["folder"])]
        else:
            raise line.error(f"class {match['folder']!r} is not in classInd.txt")
        yield ListedVideo(line, f"{video}.avi", label, split)
