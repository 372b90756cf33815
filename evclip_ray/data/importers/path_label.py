"""Importer of `<path> <class id>` lists, as in SlowFast, ViFi-CLIP and X-CLIP, including few-shot lists."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from evclip_ray.config import ConfigError
from evclip_ray.data.importers.annotation_files import (
    Line,
    class_index,
    find_annotation_file,
    read_lines,
    whole_number,
)
from evclip_ray.data.importers.class_names import read_class_names
from evclip_ray.data.importers.import_report import ImportReport, ListedVideo, build_report
from evclip_ray.data.storage import Place

# A path can contain blanks and commas. The id follows the last of them.
_PATH_LABEL = re.compile(r"(?P<path>.*\S)[\s,]+(?P<label>[+-]?\d+)", re.ASCII)
_FRAMES_LABEL = re.compile(r"(?P<path>.*\S)\s+(?P<frames>[+-]?\d+)\s+(?P<label>[+-]?\d+)", re.ASCII)


class Entry(NamedTuple):
    """Fields of a line; `num_frames` only for a folder of frames."""

    path: str
    label: str
    num_frames: int | None = None


Parse = Callable[[Line], Entry]


class ListFiles(NamedTuple):
    """List of each split, None if it has none."""

    train: Path | None
    val: Path | None
    test: Path | None


def import_path_label(
    root: Place,
    *,
    labels: Path,
    lists: Path | None = None,
    train: Path | None = None,
    val: Path | None = None,
    test: Path | None = None,
) -> ImportReport:
    """Import lists whose lines are a path or file name, a blank or a comma, and a class id from 0.

    At least one list is required. The validation list of published code is usually its test list.

    Args:
        root: Folder of the videos.
        labels: Class names, see `read_class_names`.
        lists: Folder that the other paths are relative to.
        train: List of the training videos.
        val: List of the validation videos.
        test: List of the test videos.

    Raises:
        AnnotationError: A list is missing or invalid, or none of its videos is under `root`.
        ConfigError: There is no list.
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
    """Import text lists.

    Args:
        root: Folder or URI of the videos.
        files: List of each split.
        labels: Class names, see `read_class_names`.
        lists: Folder that the other paths are relative to.
        parse: Parser of one line.
        source: Name of the format, for messages.
        fps: Frames per second of the folders of frames, None if unknown.
    """
    classes = read_class_names(find_annotation_file([lists or Path()], str(labels)))
    rows = list(listed_rows(files, lists, len(classes), parse))
    if not rows:
        raise ConfigError("name at least one list: train=FILE, val=FILE or test=FILE")
    frames = parse is frames_label
    return build_report(
        rows, classes, root=root, source=source, groups_from_names=True, frames=frames, fps=fps
    )


def listed_rows(
    files: ListFiles, lists: Path | None, num_classes: int, parse: Parse
) -> Iterator[ListedVideo]:
    """Yield the rows of the lists that are not None."""
    for split, name in files._asdict().items():
        if name is None:
            continue
        for line in read_lines(find_annotation_file([lists or Path()], str(name))):
            path, label, num_frames = parse(line)
            yield ListedVideo(line, path, class_index(line, label, num_classes), split, num_frames=num_frames)


def path_label(line: Line) -> Entry:
    """Parse `some/path.mp4 3`; the path can be quoted."""
    match = _PATH_LABEL.fullmatch(line.text.strip())
    if match is None:
        raise line.error("must be a path and a class id")
    return Entry(_unquoted(match["path"]), match["label"])


def frames_label(line: Line) -> Entry:
    """Parse `some/folder 163 3`: a folder of frames, their number, and a class id."""
    match = _FRAMES_LABEL.fullmatch(line.text.strip())
    if match is None:
        raise line.error("must be a folder of frames, their number and a class id")
    num_frames = whole_number(line, match["frames"], "the number of frames")
    if num_frames < 1:
        raise line.error("the number of frames must be at least 1")
    return Entry(_unquoted(match["path"]), match["label"], num_frames)


def _unquoted(path: str) -> str:
    # The pattern is greedy, so a comma after the path is part of it if blanks follow.
    path = path.rstrip(", ")
    return path[1:-1] if len(path) > 2 and path[0] == path[-1] and path[0] in "\"'" else path
