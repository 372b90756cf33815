"""Lists of `<path> <class id>`: SlowFast's, ViFi-CLIP's and X-CLIP's, few-shot lists among them."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from evclip_ray.config import ConfigError
from evclip_ray.data.importers.annotation_files import Line, class_index, find_list, read_lines, whole_number
from evclip_ray.data.importers.class_names import read_class_names
from evclip_ray.data.importers.import_report import ImportReport, Listed, build_report
from evclip_ray.data.storage import Place

# A path may hold blanks and commas: the id is what follows the last of them.
_PATH_LABEL = re.compile(r"(?P<path>.*\S)[\s,]+(?P<label>[+-]?\d+)", re.ASCII)
_FRAMES_LABEL = re.compile(r"(?P<path>.*\S)\s+(?P<frames>[+-]?\d+)\s+(?P<label>[+-]?\d+)", re.ASCII)


class Entry(NamedTuple):
    """What a line says; `num_frames` where it names a folder of frames."""

    path: str
    label: str
    num_frames: int | None = None


Parse = Callable[[Line], Entry]


class ListFiles(NamedTuple):
    """The list of each split that has one."""

    train: Path | None
    val: Path | None
    test: Path | None


def import_path_label(
    root: Place, *, labels: Path, lists: Path | None = None,
    train: Path | None = None, val: Path | None = None, test: Path | None = None,
) -> ImportReport:  # fmt: skip
    """Lists whose lines are a path (or a file's name), a blank or a comma, and a class id from 0.

    `labels`: class names, see `read_class_names`; required, as ids mean nothing without them.
    `train`, `val`, `test`: the list of each split, at least one. `lists`: the folder that these four are
    relative to. What published code calls its validation list is its test list.

    Raises:
        ListError: a list that is missing or broken, with its line; no video under `root`.
        ConfigError: no list.
    """
    files = ListFiles(train, val, test)
    return import_lists(root, files, labels, lists, parse=path_label, source="path_label")


def import_lists(
    root: Place,
    files: ListFiles,
    labels: Path,
    lists: Path | None,
    *,
    parse: Parse,
    source: str,
    fps: float | None = None,
) -> ImportReport:
    """The report of text lists whose lines `parse` reads. `fps`: see `build_report`."""
    classes = read_class_names(find_list([lists or Path()], str(labels)))
    rows = list(listed_rows(files, lists, len(classes), parse))
    if not rows:
        raise ConfigError("name at least one list: train=FILE, val=FILE or test=FILE")
    frames = parse is frames_label
    return build_report(
        rows, classes, root=root, source=source, groups_from_names=True, frames=frames, fps=fps
    )


def listed_rows(files: ListFiles, lists: Path | None, num_classes: int, parse: Parse) -> Iterator[Listed]:
    """The rows of the lists that there are."""
    for split, name in files._asdict().items():
        if name is None:
            continue
        for line in read_lines(find_list([lists or Path()], str(name))):
            path, label, num_frames = parse(line)
            yield Listed(line, path, class_index(line, label, num_classes), split, num_frames=num_frames)


def path_label(line: Line) -> Entry:
    """`some/path.mp4 3`, the path quoted or not."""
    match = _PATH_LABEL.fullmatch(line.text.strip())
    if match is None:
        raise line.error("must be a path and a class id")
    return Entry(_unquoted(match["path"]), match["label"])


def frames_label(line: Line) -> Entry:
    """`some/folder 163 3`: a folder of frames, their number, and a class id."""
    match = _FRAMES_LABEL.fullmatch(line.text.strip())
    if match is None:
        raise line.error("must be a folder of frames, their number and a class id")
    num_frames = whole_number(line, match["frames"], "the number of frames")
    if num_frames < 1:
        raise line.error("the number of frames must be at least 1")
    return Entry(_unquoted(match["path"]), match["label"], num_frames)


def _unquoted(path: str) -> str:
    path = path.rstrip(", ")
    return path[1:-1] if len(path) > 2 and path[0] == path[-1] and path[0] in "\"'" else path
