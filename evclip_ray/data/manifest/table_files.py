"""Tables of videos in CSV, TSV, text and Parquet files, with the columns of a manifest."""

import csv
import functools
import io
import logging
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import BinaryIO

import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from evclip_ray.data.manifest.columns import Columns, count_known, find_columns, typed_column, without_folds
from evclip_ray.data.manifest.discovery import VIDEO_ENDINGS
from evclip_ray.data.manifest.validation import SCHEMA, ManifestError
from evclip_ray.formatting import counted

logger = logging.getLogger(__name__)

ENDINGS = (".csv", ".tsv", ".txt", ".parquet")
"""Endings of the files that are read."""

_SEPARATORS = (",", ";", "\t", "|")
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_ENDING = "|".join(sorted(VIDEO_ENDINGS, key=len, reverse=True))
# A path may hold blanks, so it goes up to the ending of a video, or else up to the last blank.
_LINE = re.compile(
    rf"""\s*(?:"(?P<quoted>[^"]+)"|(?P<path>.*?\.(?:{_ENDING}))|(?P<folder>.*\S))[\s,;]+(?P<label>\S.*)""",
    re.IGNORECASE,
)
_LAST_BLANK = re.compile(r"(?P<folder>\S(?:.*\S)?)[\s,;]+(?P<label>\S+)\s*")


def read_table(stream: BinaryIO, source: str, columns: Mapping[str, str] | None = None) -> pa.Table:
    """Read a file into a table whose columns are those of `SCHEMA` that it has.

    Text may be UTF-8 or UTF-16, and separated by commas, semicolons, tabs or bars. A .txt file without a
    first line of names has lines of a path, a blank and a label. Other columns are ignored with a warning.

    Args:
        stream: Content of the file.
        source: Its name, which decides the format.
        columns: Column of the manifest -> its name in the file.

    Raises:
        ManifestError: The file has another format, lacks a column, or a cell is invalid.
    """
    chosen = dict(columns or {})
    if PurePosixPath(source).suffix.lower() == ".parquet":
        table = parquet.ParquetFile(stream).read()
        table = _chosen_columns(table, find_columns(table.column_names, source, chosen), source)
        return pa.table({name: _cast(table[name], name, source) for name in table.column_names})
    text = _decoded(stream.read(), source)
    if not text.strip():
        raise ManifestError(f"{source}: is empty; it needs at least the columns path,label and one row")
    separator = None
    # Excel writes and reads this line.
    if re.match(r"sep=.\r?\n", text):
        separator, text = text[4], text.partition("\n")[2]
    header, _, body = text.lstrip("\r\n").partition("\n")
    separator = separator or _separator(header, source, chosen)
    names = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
    if not count_known(names, chosen):
        if PurePosixPath(source).suffix.lower() == ".txt":
            return _paths_and_labels(text, source)
        _refuse_header(header, names, separator, source)
    found = find_columns(names, source, chosen)
    table = _chosen_columns(_cells(body, len(names), separator, source), found, source, names)
    for name in table.column_names:
        values = typed_column(table[name], name, source, decimal_comma=separator == ";")
        table = table.set_column(table.column_names.index(name), SCHEMA.field(name), values)
    return table


def _decoded(data: bytes, source: str) -> str:
    codec = next((codec for mark, codec in _MARKS if data.startswith(mark)), None)
    if codec is None:
        # ASCII characters in UTF-16 have a zero byte, after or before their own.
        start = data[:200]
        zeros = [start[k::2].count(0) > len(start) / 4 for k in (0, 1)]
        codec = "utf-16-be" if zeros[0] else "utf-16-le" if zeros[1] else "utf-8"
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ManifestError(f"{source}: line {line} must be UTF-8 text; save the file as UTF-8") from None
    if "\0" in text:
        raise ManifestError(f"{source}: holds zero bytes, so it is no text; save it as a CSV file in UTF-8")
    return text


def _separator(header: str, source: str, chosen: Mapping[str, str]) -> str:
    """Return the separator that gives the most known names, and then the most names."""

    def score(separator: str) -> tuple[int, int]:
        names = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
        return count_known(names, chosen), len(names)

    usual = "\t" if PurePosixPath(source).suffix.lower() == ".tsv" else ","
    # `max` returns the first of equal ones.
    return max([usual, *_SEPARATORS], key=score)


def _refuse_header(header: str, names: list[str], separator: str, source: str) -> None:
    shown = header.strip() if len(header) <= 80 else f"{header[:77].strip()}..."
    if len(names) < 2:
        raise ManifestError(
            f"{source}: its first line {shown!r} has no separator; separate the columns by"
            " commas, semicolons, tabs or bars, and name them in the first line, such as 'path,label'"
        )
    if any("/" in name or re.search(rf"\.({_ENDING})$", name, re.IGNORECASE) for name in names):
        raise ManifestError(
            f"{source}: has no header, its first line is {shown!r}; put the names of the columns in front,"
            f" such as {separator.join(['path', 'label', *['...'] * (len(names) - 2)])!r}"
        )


def _cells(body: str, count: int, separator: str, source: str) -> pa.Table:
    """Return the cells of a text as columns 0, 1, ... of texts."""
    # Arrow takes a quote for the start of a cell only directly after the separator.
    if f'{separator} "' in body:
        rewritten = io.StringIO()
        rows = csv.reader(io.StringIO(body, newline=""), delimiter=separator, skipinitialspace=True)
        csv.writer(rewritten, delimiter=separator, lineterminator="\n").writerows(rows)
        body = rewritten.getvalue()
    names = [str(k) for k in range(count)]
    if not body.strip():
        return pa.table({name: pa.array([], pa.string()) for name in names})
    wrong: list[tuple[int | None, int, str]] = []

    def note(row: arrow_csv.InvalidRow) -> str:
        wrong.append((row.number, row.actual_columns, row.text))
        return "error"

    # Types are given: if Arrow guessed, labels such as 001 would become numbers.
    convert = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
    )
    for use_threads in (True, False):
        options = arrow_csv.ReadOptions(column_names=names, use_threads=use_threads)
        parse = arrow_csv.ParseOptions(delimiter=separator, invalid_row_handler=note)
        try:
            return arrow_csv.read_csv(
                io.BytesIO(body.encode()), read_options=options, parse_options=parse, convert_options=convert
            )
        except pa.ArrowInvalid as error:
            # With threads Arrow does not know the number of the row, so the file is read again.
            if not wrong or wrong[-1][0] is None:
                problem = error
                continue
            number, cells, text = wrong[-1]
            hint = "; quote a cell that holds the separator" if cells > count else ""
            raise ManifestError(
                f"{source}: row {number} has {counted(cells, 'cell')}, but the header has {count}{hint}:"
                f" {text.strip()[:80]!r}"
            ) from None
    raise ManifestError(f"{source}: {str(problem).splitlines()[0].removeprefix('CSV parse error: ')}")


def _cast(values: pa.ChunkedArray, column: str, source: str) -> pa.ChunkedArray:
    try:
        return values.cast(SCHEMA.field(column).type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ManifestError(f"{source}: column {column!r}: {str(error).splitlines()[0]}") from None


def _chosen_columns(table: pa.Table, found: Columns, source: str, names: list[str] | None = None) -> pa.Table:
    names = table.column_names if names is None else names
    ignored = list(found.ignored)
    chosen = pa.table({name: table.column(position) for name, position in found.positions.items()})
    if "split" in found.positions and not pa.types.is_integer(chosen["split"].type):
        original = names[found.positions["split"]].strip()
        chosen, is_removed = without_folds(chosen, original)
        ignored += [original] * is_removed
    if ignored:
        _warn_once(f"{source}: ignored column{'s' * (len(ignored) > 1)} {', '.join(map(repr, ignored))}")
    return chosen


@functools.lru_cache(maxsize=256)
def _warn_once(message: str) -> None:
    # A command reads its list several times.
    logger.warning("%s", message)


def _paths_and_labels(text: str, source: str) -> pa.Table:
    paths, labels = [], []
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if [word.lower() for word in lines[0].split()] == ["path", "label"]:
        lines = lines[1:]
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is not None and match["folder"]:
            match = _LAST_BLANK.fullmatch(line.strip())
        if match is None:
            raise ManifestError(
                f"{source}: row {number} must be a path, a blank and a label, got {line[:80]!r}"
            )
        parts = match.groupdict()
        path = next(part for part in (parts.get("quoted"), parts.get("path"), parts.get("folder")) if part)
        paths.append(path)
        labels.append(parts["label"].strip().strip('"'))
    return pa.table({"path": pa.array(paths, pa.string()), "label": pa.array(labels, pa.string())})
