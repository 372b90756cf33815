"""Annotation files of data sets: search, reading, and errors that name the file and the line."""

import csv
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evclip_ray.config import ConfigError
from evclip_ray.data.storage import Place

_SIGNED = re.compile(r"[+-][0-9]+")


class AnnotationError(ValueError):
    """Invalid annotation file. The message names the file, the line, the value and the fix."""


class Line(NamedTuple):
    """One line of a list without trailing blanks, one row of a table, or one item of another file.

    `number` counts from 1, in units of `unit`.
    """

    path: Path
    number: int
    text: str
    unit: str = "line"

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.path}, {self.unit} {self.number}"

    def error(self, problem: str) -> AnnotationError:
        """Return an error about this line."""
        shown = self.text if len(self.text) <= 120 else f"{self.text[:117]}..."
        return AnnotationError(f"{self.where}: {problem}; the line is {shown!r}")


class Row(NamedTuple):
    """One row of a table: its line, and its trimmed cells by column name."""

    line: Line
    cells: Mapping[str, str]


def list_folders(root: Place, lists: Path | None, *folders: str) -> list[Path]:
    """Return the folders to search for the official lists.

    Args:
        root: Folder of the videos.
        lists: Folder of the lists, which is then the only result.
        *folders: Usual folder names. They are searched in `root` and in its parent.

    Raises:
        ConfigError: `lists` is None and `root` is a URI. Storages are not searched for lists.
    """
    if lists is not None:
        return [lists]
    if not isinstance(root, Path):
        raise ConfigError(f"{root}: lists are not looked for in a storage; name their folder with --lists")
    parents = [root, root.absolute().parent]
    return [parent / folder for parent, folder in itertools.product(parents, (*folders, "."))]


def find_annotation_file(folders: Sequence[Path], *names: str) -> Path:
    """Return the first file or folder with one of these names in one of these folders.

    Raises:
        AnnotationError: There is none.
    """
    path = find_optional_file(folders, *names)
    if path is not None:
        return path
    raise AnnotationError(
        f"no {' or '.join(names)} in {', '.join(map(str, folders))}; download the official lists, and name"
        " their folder with --lists"
    )


def find_optional_file(folders: Sequence[Path], *names: str) -> Path | None:
    """Return the first file or folder with one of these names, or None."""
    paths = (folder / name for folder in folders for name in names)
    return next((path for path in paths if path.exists()), None)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        AnnotationError: The file is missing.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise AnnotationError(
            f"{path}: cannot be read ({error.strerror}); check the path of the list"
        ) from None


def read_text(path: Path) -> str:
    """Return the text of a file without a byte order mark and with one newline at each line end.

    Raises:
        AnnotationError: The file is missing, or a line is not UTF-8.
    """
    data = read_bytes(path)
    try:
        # This codec drops the byte order mark, which would become part of the first column's name.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise AnnotationError(f"{path}, line {line}: must be UTF-8 text; save the list as UTF-8") from None
    # UTF-16 without a byte order mark is valid UTF-8 with zero bytes in it.
    if "\0" in text:
        raise AnnotationError(f"{path}: holds zero bytes, so it is not UTF-8 text; save the list as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines that are not blank.

    Raises:
        AnnotationError: See `read_text`; or every line is blank.
    """
    is_empty = True
    for number, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip():
            is_empty = False
            yield Line(path, number, text.rstrip())
    if is_empty:
        raise AnnotationError(f"{path}: is empty; download it again")


def read_table(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a CSV with a header.

    Args:
        path: CSV file. Quoted cells can span lines.
        columns: Required columns. Other columns are read too.

    Raises:
        AnnotationError: See `read_text`; or a column is missing, a row and the header differ in length, or
            there are no rows.
    """
    # Without `strict`, the parser accepts a stray quote and may merge many rows into one cell.
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    header: list[str] | None = None
    is_empty = True
    for row in _rows(reader, path):
        cells = [cell.strip() for cell in row]
        # `line_num` counts lines of the file, so that it is right after cells with line breaks too.
        line = Line(path, reader.line_num, ",".join(cells))
        if not any(cells):
            continue
        if header is None:
            header = cells
            missing = [name for name in columns if name not in header]
            if missing:
                raise line.error(f"column {missing[0]!r} is missing")
        elif len(cells) != len(header):
            raise line.error(f"must have {len(header)} cells, got {len(cells)}")
        else:
            is_empty = False
            yield Row(line, dict(zip(header, cells, strict=True)))
    if is_empty:
        raise AnnotationError(f"{path}: contains no rows; download it again")


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        AnnotationError: See `read_text`; or a line is not valid JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}); download it again"
        ) from None


def whole_number(line: Line, text: str, what: str) -> int:
    """Return `text` as an integer.

    Args:
        line: Line of the error message.
        text: Digits with an optional sign.
        what: Subject of the error message.

    Raises:
        AnnotationError: `text` is not an integer.
    """
    # `int` would also accept 1_000, blanks and the digits of other scripts.
    if not (text.isascii() and text.isdecimal()) and not _SIGNED.fullmatch(text):
        raise line.error(f"{what} must be a whole number, got {text!r}")
    return int(text)


def class_index(line: Line, text: str, count: int, *, first: int = 0) -> int:
    """Return the index of a class id, from 0.

    Args:
        line: Line of the error message.
        text: Class id.
        count: Number of classes.
        first: Lowest class id.

    Raises:
        AnnotationError: The id is not an integer, or out of range.
    """
    number = whole_number(line, text, "the class id")
    if not first <= number < first + count:
        raise line.error(f"the class id must be {first} to {first + count - 1}, got {number}")
    return number - first


def _rows(reader: Any, path: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise AnnotationError(
            f"{path}, line {reader.line_num}: not a valid CSV ({error}); check its quotes"
        ) from None
