"""HMDB51: `testTrainMulti_7030_splits/<class>_test_split{1,2,3}.txt`, three official splits."""

import re
from collections.abc import Iterator
from pathlib import Path

from evclip_ray.class_names import split_words
from evclip_ray.data.importers.annotation_files import ListError, read_lines
from evclip_ray.data.importers.import_report import ImportReport, Listed, build_report, check_choice, places
from evclip_ray.data.storage import Place

_LIST = re.compile(r"(?P<label>.+)_test_split(?P<split>[123])\.txt")
_SPLITS = {"0": None, "1": "train", "2": "test"}


def import_hmdb51(root: Place, *, split: int = 1, lists: Path | None = None) -> ImportReport:
    """The official split 1, 2 or 3: 70 train and 30 test videos a class, the others unused.

    `lists`: the folder of the lists; by default testTrainMulti_7030_splits in or beside `root`. Classes
    are in the order of the alphabet. A video's group is its class and the film that its name starts
    with: the official splits keep a film on one side within a class, but not across classes.

    Raises:
        ListError: a list that is missing or broken, with its line; no video under `root`.
        ConfigError: no such split.
    """
    check_choice("split", split, (1, 2, 3))
    found = _lists(root, lists)
    labels = sorted({label for label, _ in found})
    rows: list[Listed] = []
    for index, label in enumerate(labels):
        if (label, split) not in found:
            raise ListError(
                f"{label}_test_split{split}.txt is missing, though class {label!r} has lists of other splits;"
                " download the official lists again"
            )
        rows += _rows(found[label, split], index)
    classes = tuple(split_words(label) for label in labels)
    return build_report(rows, classes, root=root, source=f"hmdb51 split {split}", groups_from_names=True)


def _lists(root: Place, lists: Path | None) -> dict[tuple[str, int], Path]:
    """(class, split) -> its list, of the first place that holds any."""
    for folder in places(root, lists, "testTrainMulti_7030_splits", "splits"):
        matches = [(_LIST.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
        found = {(match["label"], int(match["split"])): path for match, path in matches if match}
        if found:
            return found
    raise ListError(
        f"no <class>_test_split1.txt in or beside {lists or root}; download the official lists, and name"
        " their folder with --lists"
    )


def _rows(path: Path, label: int) -> Iterator[Listed]:
    for line in read_lines(path):
        # Names hold #, !, brackets and blanks: only the last word is not part of them.
        video, *flag = line.text.strip().rsplit(None, 1)
        if not video.endswith(".avi") or not flag or flag[0] not in _SPLITS:
            raise line.error("must be <name>.avi and a flag: 0 unused, 1 train, 2 test")
        yield Listed(line, video, label, _SPLITS[flag[0]])
