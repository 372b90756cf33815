"""Class names from the tables of a data set and from the names of files and folders."""

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from evclip_ray.class_names import normalized_name, split_words
from evclip_ray.data.importers.annotation_files import (
    AnnotationError,
    Line,
    read_lines,
    read_table,
    whole_number,
)

_UCF = re.compile(r"v_(?P<label>[^_]+)_(?P<group>g\d+)_c\d+", re.ASCII)
# <source>_<class>_<visible body>_<camera>_<people>_<viewpoint>_<quality>_<number>
_HMDB = re.compile(r"(?P<head>.+)_[fhlu]_[cn]m_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+", re.ASCII)
_ARID = re.compile(r"(?P<label>[^_]+)_\d+_\d+", re.ASCII)

_ID_NAME = re.compile(r"(\d+)\s+(\S.*)", re.ASCII)
_ID_COLUMNS = ("id", "sno", "index")
_NAME_COLUMNS = ("name", "key", "classname", "class", "label")


class ParsedName(NamedTuple):
    """Class and source video from the name of a file; `group` is None if the name has no source."""

    label: str
    group: str | None = None


def ordered_classes(
    path: Path, named: Iterable[tuple[Line, int, str]], *, first: int | None = None
) -> tuple[str, ...]:
    """Return class names as words, in the order of their ids.

    Args:
        path: File of the classes, for messages.
        named: (line, id, name) of each class.
        first: Lowest id, None if it can be 0 or 1.

    Raises:
        AnnotationError: An id or a name occurs twice, a name is blank, an id is missing, or there are no
            classes.
    """
    names: dict[int, str] = {}
    ids: dict[str, int] = {}
    for line, number, name in named:
        if not normalized_name(name):
            raise line.error(f"class {number} has no name")
        if number in names:
            raise line.error(f"class id {number} is listed twice, as {names[number]!r} too")
        # Names are compared without case and signs, as wherever classes of two sources are matched.
        if normalized_name(name) in ids:
            raise line.error(f"class name {name!r} is listed twice, with id {ids[normalized_name(name)]} too")
        names[number], ids[normalized_name(name)] = split_words(name), number
    if not names:
        raise AnnotationError(f"{path}: contains no class; download it again")
    start = first if first is not None else min(names)
    expected = range(start, start + len(names))
    if start not in (0, 1) or set(names) != set(expected):
        absent = sorted(set(expected) - set(names)) or [start]
        raise AnnotationError(
            f"{path}: class ids must count from {'0 or 1' if first is None else first} without a gap,"
            f" but {absent[0]} has no name; the ids are {min(names)} to {max(names)}"
        )
    return tuple(names[number] for number in expected)


def read_class_names(path: Path) -> tuple[str, ...]:
    """Return the classes of a table in the order of their ids.

    Accepted formats: a CSV with a header (`id,name`, EPIC's `id,key,...`, class descriptions' `SNo,Class
    Name,...`); lines of an id and a name, as UCF101's classInd.txt; one name per line, as mmaction's label
    maps.

    Raises:
        AnnotationError: See `ordered_classes`; or the file has another format.
    """
    header = normalized_header(next(read_lines(path)).text)
    numbers = [column for column, name in header.items() if name in _ID_COLUMNS]
    names = [column for wanted in _NAME_COLUMNS for column, name in header.items() if name == wanted]
    # A header without both columns may be the first name of a plain list, so the other formats come next.
    if numbers and names:
        table = read_table(path, [numbers[0], names[0]])
        rows = ((line, cells[numbers[0]], cells[names[0]]) for line, cells in table)
        return ordered_classes(
            path, ((line, whole_number(line, number, "the class id"), name) for line, number, name in rows)
        )
    if path.suffix.lower() == ".csv":
        raise next(read_lines(path)).error("the header must name an id and a name column, as id,name")
    lines = list(read_lines(path))
    matches = [_ID_NAME.fullmatch(line.text) for line in lines]
    numbered = [(line, int(match[1]), match[2]) for line, match in zip(lines, matches, strict=True) if match]
    if len(numbered) == len(lines):
        return ordered_classes(path, numbered)
    return ordered_classes(path, ((line, number, line.text) for number, line in enumerate(lines)))


def normalized_header(header: str) -> dict[str, str]:
    """Return column -> normalized name for a comma-separated header."""
    cells = [cell.strip().strip('"') for cell in header.split(",")]
    return {cell: normalized_name(cell) for cell in cells}


class FileNameParser:
    """Parser of the class and the source video in file and folder names."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = {normalized_name(name): name for name in classes}
        # Many files share a folder.
        self._by_folder = functools.cache(self._folder)

    def read(self, path: str) -> ParsedName | None:
        """Return the class in the file name, else in the folder name; None if neither has a known class.

        >>> FileNameParser(["kick", "kick ball"]).read("Foot_kick_ball_f_cm_np1_ba_bad_0.avi")
        ParsedName(label='kick ball', group='kick ball/Foot')
        """
        folder, _, name = path.rpartition("/")
        # Folders of frames are named like their video, with or without its suffix.
        return self._file(name.rpartition(".")[0] or name) or self._by_folder(folder)

    def _folder(self, folder: str) -> ParsedName | None:
        return self._named(folder.rpartition("/")[2], None)

    def _file(self, stem: str) -> ParsedName | None:
        # The cheap checks skip the patterns for most of up to 650,000 names.
        if stem.startswith("v_") and (match := _UCF.fullmatch(stem)):
            # Group numbers start at 1 in each class, so `_named` puts the class in front.
            return self._named(match["label"], match["group"])
        if "_np" in stem and (match := _HMDB.fullmatch(stem)):
            return self._hmdb(match["head"])
        if match := _ARID.fullmatch(stem):
            return self._named(match["label"], None)
        return None

    def _hmdb(self, head: str) -> ParsedName | None:
        """Return the longest known class at the end of `<source>_<class>`: kick_ball before ball."""
        parts = head.split("_")
        for cut in range(1, len(parts)):
            # Clips of one film are in several classes. The official splits separate a film within a class
            # only.
            if parsed := self._named("_".join(parts[cut:]), "_".join(parts[:cut])):
                return parsed
        return None

    def _named(self, label: str, source: str | None) -> ParsedName | None:
        known = self._classes.get(normalized_name(label))
        return ParsedName(known, source and f"{known}/{source}") if known else None
