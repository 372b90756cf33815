"""Importer of HMDB51: `testTrainMulti_7030_splits/<class>_test_split{1,2,3}.txt`."""

import re
from collections.abc import Iterator
from pathlib import Path

from evclip_ray.class_names import split_words
from evclip_ray.data.importers.annotation_files import AnnotationError, list_folders, read_lines
from evclip_ray.data.importers.import_report import ImportReport, ListedVideo, build_report, check_choice
from evclip_ray.data.storage import Place

_LIST = re.compile(r"(?P<label>.+)_test_split(?P<split>[123])\.txt")
_SPLITS = {"0": None, "1": "train", "2": "test"}


def import_hmdb51(root: Place, *, split: int = 1, lists: Path | None = None) -> ImportReport:
    """Import an official split: 70 train and 30 test videos per class, the others are unused.

    Classes are in alphabetical order. The group of a video is its class and the film in its name, because the
    official splits separate films within a class, but not across classes.

    Args:
        root: Folder of the videos.
        split: 1, 2 or 3.
        lists: Folder of the lists; by default testTrainMulti_7030_splits in or next to `root`.

    Raises:
        AnnotationError: A list is missing or invalid, or none of its videos is under `root`.
        ConfigError: The split does not exist.
    """
    check_choice("split", split, (1, 2, 3))
    list_files = _lists(root, lists)
    # From the lists of all splits, so that an index means the same class in each.
    labels = sorted({label for label, _ in list_files})
    rows: list[ListedVideo] = []
    for index, label in enumerate(labels):
        if (label, split) not in list_files:
            raise AnnotationError(
                f"{label}_test_split{split}.txt is missing, though class {label!r} has lists of other splits;"
                " download the official lists again"
            )
        rows += _rows(list_files[label, split], index)
    classes = tuple(split_words(label) for label in labels)
    return build_report(rows, classes, root=root, source=f"hmdb51 split {split}", groups_from_names=True)


def _lists(root: Place, lists: Path | None) -> dict[tuple[str, int], Path]:
    """Return (class, split) -> list, from the first folder with any lists."""
    for folder in list_folders(root, lists, "testTrainMulti_7030_splits", "splits"):
        matches = [(_LIST.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
        list_files = {(match["label"], int(match["split"])): path for match, path in matches if match}
        if list_files:
            return list_files
    raise AnnotationError(
        f"no <class>_test_split1.txt in or next to {lists or root}; download the official lists, and name"
        " their folder with --lists"
    )


def _rows(path: Path, label: int) -> Iterator[ListedVideo]:
    for line in read_lines(path):
        # Names can contain #, !, brackets and blanks. Only the last word is the flag.
        video, *flag = line.text.strip().rsplit(None, 1)
        if not video.endswith(".avi") or not flag or flag[0] not in _SPLITS:
            raise line.error("must be <name>.avi and a flag: 0 unused, 1 train, 2 test")
        yield ListedVideo(line, video, label, _SPLITS[flag[0]])
