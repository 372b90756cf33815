"""Validation of the rows of a manifest, by column operations."""

import unicodedata
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evclip_ray.config import nearest
from evclip_ray.data.storage import Place
from evclip_ray.formatting import counted

SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "label": pa.string(),
        "split": pa.string(),
        "group": pa.string(),
        "start_seconds": pa.float64(),
        "end_seconds": pa.float64(),
        "start_frame": pa.int64(),
        "end_frame": pa.int64(),
        "fps": pa.float64(),
        "mask": pa.string(),
    }
)
_REQUIRED = ("path", "label")
# Characters without width, at the ends of labels copied from web pages and spreadsheets.
_INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad"


class ManifestError(ValueError):
    """Invalid manifest. The message names the row, the value and the fix."""


def checked(table: pa.Table, *, root: Place, source: str, allow_leaks: bool = False) -> pa.Table:
    """Return a valid table with every column of `SCHEMA`, texts trimmed and paths relative to `root`.

    Labels and groups are in Unicode's form NFC, so that a composed and a decomposed accent are one label.
    Paths are left in the form that the disk has. Names of splits may be synonyms in any case, such as Valid.

    Args:
        table: Columns that the manifest has.
        root: Absolute folder or URI of the videos.
        source: Origin of the rows, for messages.
        allow_leaks: True if a file or a group may be in two splits.

    Raises:
        ManifestError: A check fails; the message describes the first failure.
    """
    table = _with_all_columns(table, source)
    if not table.num_rows:
        raise ManifestError(f"{source}: contains no rows; list at least one video")
    table = _tidied(table, root)
    _check_blanks(table, source)
    _check_splits(table, source)
    _check_paths(table, root, source)
    _check_times(table, source)
    _check_frames(table, source)
    _check_duplicates(table, source)
    if not allow_leaks:
        _check_leaks(table, "group", source)
        _check_leaks(table, "path", source)
    return table


def split_names(name: str) -> str | None:
    """Return the split that a name stands for, in any case, or None: "Training" is "train"."""
    return _SPLIT_NAMES.get(name.strip().lower())


def shared_between_splits(table: pa.Table, column: str) -> pa.Table:
    """Return the values of `column` in two or more splits: columns `column` and `splits`, a list."""
    known = table.filter(pc.and_(pc.is_valid(table[column]), pc.is_valid(table["split"])))
    # With threads Arrow returns the groups in random order, and messages name the first one.
    counted = known.group_by(column, use_threads=False).aggregate([("split", "distinct")])
    shared = counted.filter(pc.greater(pc.list_value_length(counted["split_distinct"]), 1))
    return shared.select([column, "split_distinct"]).rename_columns([column, "splits"])


def _with_all_columns(table: pa.Table, source: str) -> pa.Table:
    names = table.column_names
    for name in names:
        if name not in SCHEMA.names:
            raise ManifestError(f"{source}: no such column {name!r}; {nearest(name, SCHEMA.names)}")
        if names.count(name) > 1:
            raise ManifestError(f"{source}: column {name!r} appears {names.count(name)} times; keep one")
    for name in _REQUIRED:
        if name not in names:
            raise ManifestError(f"{source}: column {name!r} is missing; it has {', '.join(names)}")
    columns = [
        table[field.name] if field.name in names else pa.nulls(table.num_rows, field.type) for field in SCHEMA
    ]
    try:
        # One chunk for each column, as every later check and `take` is then one pass over one array.
        return pa.table(columns, names=SCHEMA.names).cast(SCHEMA).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ManifestError(f"{source}: {error}") from None


def composed(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return texts in Unicode's form NFC, in which a letter and its accent are one character."""
    # Arrow's own function decomposes them before version 26, whatever the form.
    distinct = pc.unique(texts)
    names = [name and unicodedata.normalize("NFC", name) for name in distinct.to_pylist()]
    return pc.take(pa.array(names, distinct.type), pc.index_in(texts, distinct))


def _tidied(table: pa.Table, root: Place) -> pa.Table:
    for name in ("path", "label", "split", "group", "mask"):
        table = _with(table, name, pc.utf8_trim_whitespace(table[name]))
    # An empty cell means no value, in a Parquet file too.
    for name in ("split", "group", "mask"):
        table = _with(table, name, pc.if_else(pc.equal(table[name], ""), None, table[name]))
    # Without characters beyond ASCII there is nothing to normalise, which saves two passes.
    for name in ("label", "group"):
        if not pc.all(pc.string_is_ascii(table[name])).as_py():
            visible = pc.utf8_trim(table[name], characters=_INVISIBLE + " \t\u00a0")
            table = _with(table, name, composed(visible))
    table = _with(table, "split", _standard_splits(table["split"]))
    prefix = f"{str(root).rstrip('/')}/"
    # One file must have one path, because duplicates and leaks are found by comparing paths.
    for name in ("path", "mask"):
        inside = pc.starts_with(table[name], prefix)
        relative = pc.utf8_slice_codeunits(table[name], len(prefix))
        paths = pc.if_else(inside, relative, table[name])
        if pc.any(pc.starts_with(paths, "./")).as_py():
            paths = pc.replace_substring_regex(paths, r"^(\./+)+", "")
        table = _with(table, name, paths)
    return table


def _standard_splits(splits: pa.ChunkedArray) -> pa.ChunkedArray:
    for value in pc.unique(splits).to_pylist():
        standard = split_names(value) if value else None
        if standard not in (None, value):
            splits = pc.if_else(pc.equal(splits, value), standard, splits)
    return splits


def _with(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), SCHEMA.field(name), values)


def _first(mask: Any) -> int | None:
    """Return the first row where `mask` is true; a null is false."""
    rows = np.flatnonzero(pc.fill_null(mask, False).to_numpy())
    return int(rows[0]) if len(rows) else None


def _check_blanks(table: pa.Table, source: str) -> None:
    for name in _REQUIRED:
        # Kleene logic: null or true is true. With plain `or_` it is null, which `_first` takes for false.
        row = _first(pc.or_kleene(pc.is_null(table[name]), pc.equal(table[name], "")))
        if row is not None:
            raise ManifestError(f"{source}: row {row + 1} has a blank {name}; every row needs one")


def _check_splits(table: pa.Table, source: str) -> None:
    known = pc.is_in(table["split"], value_set=pa.array(SPLITS))
    row = _first(pc.and_(pc.is_valid(table["split"]), pc.invert(known)))
    if row is not None:
        value = table["split"][row].as_py()
        raise ManifestError(f"{source}: row {row + 1} has split {value!r}; {nearest(value, list(SPLITS))}")


def _check_paths(table: pa.Table, root: Place, source: str) -> None:
    for name, file in (("path", "video"), ("mask", "mask")):
        # A URI is complete without the root, and does not match.
        row = _first(pc.match_substring_regex(table[name], r"^/|(^|/)\.\.(/|$)"))
        if row is not None:
            value = table[name][row].as_py()
            raise ManifestError(
                f"{source}: row {row + 1}: {name} {value!r} is outside the data root {root}; paths are"
                f" relative to the root: name another root, move the {file}, or give a URI (file:///...)"
            )


def _check_times(table: pa.Table, source: str) -> None:
    start, end = table["start_seconds"], table["end_seconds"]
    # A comparison with null is null, so rows without bounds pass every check.
    for name in ("start_seconds", "end_seconds"):
        row = _first(pc.or_(pc.invert(pc.is_finite(table[name])), pc.less(table[name], 0)))
        if row is not None:
            value = table[name][row].as_py()
            raise ManifestError(f"{source}: row {row + 1}: {name} must be 0 or more, got {value}")
    row = _first(pc.greater_equal(start, end))
    if row is not None:
        raise ManifestError(
            f"{source}: row {row + 1}: start_seconds must be less than end_seconds,"
            f" got {start[row].as_py()} and {end[row].as_py()}"
        )


def _check_frames(table: pa.Table, source: str) -> None:
    start, end, fps = table["start_frame"], table["end_frame"], table["fps"]
    row = _first(pc.invert(pc.and_(pc.is_finite(fps), pc.greater(fps, 0))))
    if row is not None:
        raise ManifestError(f"{source}: row {row + 1}: fps must be more than 0, got {fps[row].as_py()}")
    row = _first(pc.or_kleene(pc.less(start, 0), pc.or_kleene(pc.less(end, 1), pc.greater_equal(start, end))))
    if row is not None:
        raise ManifestError(
            f"{source}: row {row + 1}: start_frame must be 0 or more and less than end_frame,"
            f" got {start[row].as_py()} and {end[row].as_py()}"
        )
    by_frames = pc.or_(pc.is_valid(start), pc.is_valid(end))
    by_seconds = pc.or_(pc.is_valid(table["start_seconds"]), pc.is_valid(table["end_seconds"]))
    row = _first(pc.and_(by_frames, by_seconds))
    if row is not None:
        raise ManifestError(
            f"{source}: row {row + 1}: its part is given in frames and in seconds; keep one of them"
        )


def _check_duplicates(table: pa.Table, source: str) -> None:
    # The split is a key, because one file in two splits is a leak and not a duplicate.
    keys = ["path", "split", "start_seconds", "end_seconds", "start_frame", "end_frame"]
    numbered = table.select(keys).append_column("row", pa.array(np.arange(table.num_rows)))
    counts = numbered.group_by(keys, use_threads=False).aggregate(
        [("row", "count"), ("row", "min"), ("row", "max")]
    )
    repeated = counts.filter(pc.greater(counts["row_count"], 1))
    if repeated.num_rows:
        first = repeated.sort_by("row_min").slice(0, 1).to_pylist()[0]
        _refuse_contradiction(table, first, source)
        rows = f"{first['row_min'] + 1} {'and' if first['row_count'] == 2 else 'to'} {first['row_max'] + 1}"
        raise ManifestError(
            f"{source}: {counted(repeated.num_rows, 'video', 'is', 'are')} listed more than once; the first "
            f"is {first['path']!r}, {first['row_count']} times, in rows {rows}; keep one row"
        )


def _refuse_contradiction(table: pa.Table, repeated: dict[str, Any], source: str) -> None:
    """Raise an error if a video that is listed more than once has two labels."""
    first = repeated["row_min"]
    same = pc.equal(table["path"], repeated["path"])
    row = _first(pc.and_(same, pc.not_equal(table["label"], table["label"][first])))
    if row is not None:
        labels = [table["label"][k].as_py() for k in (first, row)]
        raise ManifestError(
            f"{source}: {repeated['path']!r} has two labels, {labels[0]!r} in row {first + 1} and"
            f" {labels[1]!r} in row {row + 1}; keep the right row"
        )


def _check_leaks(table: pa.Table, column: str, source: str) -> None:
    """Raise an error if a group or a file is in two splits: test results would include training videos."""
    leaking = shared_between_splits(table, column)
    if leaking.num_rows:
        value, where = leaking[column][0].as_py(), sorted(leaking["splits"][0].as_py())
        raise ManifestError(
            f"{source}: {counted(leaking.num_rows, column, 'is', 'are')} in more than one split; the first "
            f"is {value!r}, in {' and '.join(where)}; put each {column} in one split"
        )
