"""Class names: from the tables of a data set, as words, and as file names tell them."""

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from evclip_ray.class_names import normalized_name, split_words
from evclip_ray.data.importers.annotation_files import Line, ListError, read_lines, read_table, whole_number

_UCF = re.compile(r"v_(?P<label>[^_]+)_(?P<group>g\d+)_c\d+", re.ASCII)
# <source>_<class>_<visible body>_<camera>_<people>_<viewpoint>_<quality>_<number>
_HMDB = re.compile(r"(?P<head>.+)_[fhlu]_[cn]m_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+", re.ASCII)
_ARID = re.compile(r"(?P<label>[^_]+)_\d+_\d+", re.ASCII)

_ID_NAME = re.compile(r"(\d+)\s+(\S.*)", re.ASCII)
_ID_COLUMNS = ("id", "sno", "index")
_NAME_COLUMNS = ("name", "key", "classname", "class", "label")


class Named(NamedTuple):
    """What a file's name says: its class, and the source that it was cut from (None: it does not say)."""

    label: str
    group: str | None = None


def ordered_classes(
    path: Path, named: Iterable[tuple[Line, int, str]], *, first: int | None = None
) -> tuple[str, ...]:
    """Class names as words, in the order of their ids.

    `named`: (line, id, name) of each class in `path`. `first`: the lowest id, None where it may be 0 or 1.

    Raises:
        ListError: an id or a name twice, an id without a name, ids that leave a gap, no class.
    """
    found: dict[int, str] = {}
    seen: dict[str, int] = {}
    for line, number, name in named:
        if not normalized_name(name):
            raise line.error(f"class {number} has no name")
        if number in found:
            raise line.error(f"class id {number} is listed twice, as {found[number]!r} too")
        if normalized_name(name) in seen:
            raise line.error(
                f"class name {name!r} is listed twice, with id {seen[normalized_name(name)]} too"
            )
        found[number], seen[normalized_name(name)] = split_words(name), number
    if not found:
        raise ListError(f"{path}: names no class; download it again")
    start = first if first is not None else min(found)
    expected = range(start, start + len(found))
    if start not in (0, 1) or set(found) != set(expected):
        absent = sorted(set(expected) - set(found)) or [start]
        raise ListError(
            f"{path}: class ids must count from {'0 or 1' if first is None else first} without a gap,"
            f" but {absent[0]} has no name; the ids are {min(found)} to {max(found)}"
        )
    return tuple(found[number] for number in expected)


def read_class_names(path: Path) -> tuple[str, ...]:
    """The classes of a table in one of the usual forms, in the order of their ids.

    A CSV with a header (`id,name`, EPIC's `id,key,...`, class descriptions' `SNo,Class Name,...`); or
    lines of an id and a name, as UCF101's classInd.txt; or one name a line, as mmaction's label maps.

    Raises:
        ListError: see `ordered_classes`, or none of these forms.
    """
    header = plain_cells(next(read_lines(path)).text)
    numbers = [column for column, name in header.items() if name in _ID_COLUMNS]
    names = [column for wanted in _NAME_COLUMNS for column, name in header.items() if name == wanted]
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


def plain_cells(header: str) -> dict[str, str]:
    """Column name -> its letters and digits, of a comma-separated header."""
    cells = [cell.strip().strip('"') for cell in header.split(",")]
    return {cell: normalized_name(cell) for cell in cells}


class NameReader:
    """Reads the class, and the source video, out of file and folder names."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = {normalized_name(name): name for name in classes}
        self._by_folder = functools.cache(self._folder)

    def read(self, path: str) -> Named | None:
        """What `path` says, its file name before its folder; None where it names no known class.

        >>> NameReader(["kick", "kick ball"]).read("Foot_kick_ball_f_cm_np1_ba_bad_0.avi")
        Named(label='kick ball', group='kick ball/Foot')
        """
        folder, _, name = path.rpartition("/")
        # Folders of frames have the name of their video, with its suffix or without.
        found = self._file(name.rpartition(".")[0] or name)
        return found or self._by_folder(folder)

    def _folder(self, folder: str) -> Named | None:
        return self._named(folder.rpartition("/")[2], None)

    def _file(self, stem: str) -> Named | None:
        # Of 650,000 names few have the marks that the longer patterns begin or end with.
        if stem.startswith("v_") and (match := _UCF.fullmatch(stem)):
            # A group number counts anew in each class.
            return self._named(match["label"], match["group"])
        if "_np" in stem and (match := _HMDB.fullmatch(stem)):
            return self._hmdb(match["head"])
        if match := _ARID.fullmatch(stem):
            return self._named(match["label"], None)
        return None

    def _hmdb(self, head: str) -> Named | None:
        """The longest known class that `<source>_<class>` ends with: kick_ball before ball."""
        parts = head.split("_")
        for cut in range(1, len(parts)):
            # One film serves several classes, and the official splits keep it apart within a class only.
            if found := self._named("_".join(parts[cut:]), "_".join(parts[:cut])):
                return found
        return None

    def _named(self, label: str, source: str | None) -> Named | None:
        known = self._classes.get(normalized_name(label))
        return Named(known, source and f"{known}/{source}") if known else None
