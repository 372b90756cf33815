"""Reading the text files that data sets come with: every complaint names the file and the line."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_SIGNED = re.compile(r"[+-][0-9]+")


class ListError(ValueError):
    """A list that cannot be used: the message names the file, the line, the value and the cure."""


class Line(NamedTuple):
    """One line of a list, without blanks at its end, or one row of a table, or one item of another file.

    `number` counts from 1, in `unit`.
    """

    path: Path
    number: int
    text: str
    unit: str = "line"

    @property
    def where(self) -> str:
        """The file and the line, for messages."""
        return f"{self.path}, {self.unit} {self.number}"

    def error(self, problem: str) -> ListError:
        """An error about this line."""
        shown = self.text if len(self.text) <= 120 else f"{self.text[:117]}..."
        return ListError(f"{self.where}: {problem}; the line is {shown!r}")


class Row(NamedTuple):
    """One row of a table: its line, and its cells by the name of their column, blanks trimmed."""

    line: Line
    cells: Mapping[str, str]


def find_list(folders: Sequence[Path], *names: str) -> Path:
    """The first file or folder with one of these names in one of these folders.

    Raises:
        ListError: there is none.
    """
    found = find_optional(folders, *names)
    if found is not None:
        return found
    places = ", ".join(str(folder) for folder in folders)
    raise ListError(
        f"no {' or '.join(names)} in {places}; download the official lists, and name their folder"
        " with --lists"
    )


def find_optional(folders: Sequence[Path], *names: str) -> Path | None:
    """The first file or folder with one of these names in one of these folders, None if there is none."""
    paths = (folder / name for folder in folders for name in names)
    return next((path for path in paths if path.exists()), None)


def read_text(path: Path) -> str:
    """The text of a file, with or without a byte order mark, its line ends made one.

    Raises:
        ListError: the file is missing, or is not UTF-8 (the line is named).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ListError(f"{path}: cannot be read ({error.strerror}); check the path of the list") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ListError(f"{path}, line {line}: must be UTF-8 text; save the list as UTF-8") from None
    if "\0" in text:
        raise ListError(f"{path}: holds zero bytes, so it is not UTF-8 text; save the list as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> Iterator[Line]:
    """The lines that are not blank.

    Raises:
        ListError: see `read_text`, or every line is blank.
    """
    found = False
    for number, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip():
            found = True
            yield Line(path, number, text.rstrip())
    if not found:
        raise ListError(f"{path}: is empty; download it again")


def read_table(path: Path, columns: Sequence[str], *, delimiter: str = ",") -> Iterator[Row]:
    """The rows of a CSV with a header; quoted cells may run over lines, and other columns are kept.

    Raises:
        ListError: see `read_text`; a column of `columns` is missing, a row has not the
            header's cells, or there are no rows.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    found = False
    for row in _rows(reader, path):
        cells = [cell.strip() for cell in row]
        line = Line(path, reader.line_num, delimiter.join(cells))
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
            found = True
            yield Row(line, dict(zip(header, cells, strict=True)))
    if not found:
        raise ListError(f"{path}: holds no rows; download it again")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        ListError: see `read_text`, or it is not JSON (the line is named).
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ListError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg}); download it again"
        ) from None


def whole_number(line: Line, text: str, what: str) -> int:
    """`text` as an integer.

    Raises:
        ListError: it is none; `what` it should be is named.
    """
    if not (text.isascii() and text.isdecimal()) and not _SIGNED.fullmatch(text):
        raise line.error(f"{what} must be a whole number, got {text!r}")
    return int(text)


def class_index(line: Line, text: str, count: int, *, first: int = 0) -> int:
    """The index from 0 of a class id that counts from `first`, of `count` classes.

    Raises:
        ListError: not a whole number, or out of range.
    """
    number = whole_number(line, text, "the class id")
    if not first <= number < first + count:
        raise line.error(f"the class id must be {first} to {first + count - 1}, got {number}")
    return number - first


def _rows(reader: Any, path: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise ListError(
            f"{path}, line {reader.line_num}: not a valid CSV ({error}); check its quotes"
        ) from None
