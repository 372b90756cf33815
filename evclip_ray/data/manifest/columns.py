"""Columns of a list: the names that are understood, and the conversion of their texts."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evclip_ray.class_names import normalized_name
from evclip_ray.config import nearest
from evclip_ray.data.manifest.validation import SCHEMA, ManifestError, split_names

# In the form of `normalized_name`: without case, blanks and signs.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "path": ("video", "videopath", "videofile", "file", "filename", "filepath"),
    "label": ("class", "classname", "labelname", "target", "action", "category"),
    "split": ("subset", "set", "fold"),
}
CHOSEN = ("path", "label", "split", "group")
"""Columns whose name can be chosen, by the setting `data.NAME_column` or `--columns NAME=COLUMN`."""

_NAMES = {normalized_name(name): name for name in SCHEMA.names}
# A column of this name holds seconds or frames. Ignoring it would read the whole video instead of a part.
_UNCLEAR = ("start", "end", "begin", "stop")
_NUMBERS = {
    pa.int64(): (r"^[+-]?\d+(\.0*)?$", "a whole number"),
    pa.float64(): (r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(nan|inf)$", "a number"),
}


@dataclasses.dataclass(frozen=True)
class Columns:
    """Columns of a file that a manifest reads.

    Attributes:
        positions: Column of the manifest -> position of the file's column.
        ignored: Names of the other columns.
    """

    positions: dict[str, int]
    ignored: tuple[str, ...]


def count_known(names: Sequence[str], chosen: Mapping[str, str]) -> int:
    """Return how many of the names of a first line are names of columns."""
    known = {*_NAMES, *(word for words in _SYNONYMS.values() for word in words)}
    known |= {normalized_name(name) for name in chosen.values()}
    return sum(normalized_name(name.strip()) in known for name in names)


def find_columns(names: Sequence[str], source: str, chosen: Mapping[str, str] | None = None) -> Columns:
    """Find the columns of a manifest among those of a file. Case, blanks and signs in names are ignored.

    A name of the manifest comes before its synonyms, such as `class` for `label`.

    Args:
        names: Names of the file's columns.
        source: File, for messages.
        chosen: Column of the manifest -> name in the file, for columns with other names.

    Raises:
        ManifestError: A required column is missing, two columns may be meant, a chosen one does not exist, or
            a name is probably mistyped.
    """
    names = [name.strip() for name in names]
    keys = [normalized_name(name) for name in names]
    positions: dict[str, int] = {}
    for column, name in (chosen or {}).items():
        places = [i for i, each in enumerate(names) if each == name]
        places = places or [i for i, key in enumerate(keys) if key == normalized_name(name)]
        if not places:
            raise ManifestError(
                f"{source}: data.{column}_column is {name!r}, but there is no such column;"
                f" {nearest(name, [each for each in names if each])}"
            )
        positions[column] = places[0]
    for column in SCHEMA.names:
        if column not in positions:
            places = _places(column, names, keys, set(positions.values()), source)
            if places:
                positions[column] = places[0]
    for column in ("path", "label"):
        if column not in positions:
            raise ManifestError(f"{source}: {_missing(column, names, positions)}")
    others = [name for i, name in enumerate(names) if i not in positions.values()]
    _refuse_mistyped(others, positions, source)
    # A column without a name is the index that pandas writes.
    return Columns(positions, tuple(name for name in others if name and not _is_index(name)))


def typed_column(
    values: pa.ChunkedArray, column: str, source: str, *, decimal_comma: bool = False
) -> pa.ChunkedArray:
    """Convert the texts of a column to its type; a text without characters is a missing value.

    Whole numbers may be written as 10.0, as pandas does where some rows have none.

    Args:
        values: Texts.
        column: Name of the column.
        source: File, for messages.
        decimal_comma: Whether 1,5 is a number, as in files with semicolons.

    Raises:
        ManifestError: A text is not a number. The message names the row, the column and the text.
    """
    kind = SCHEMA.field(column).type
    if kind not in _NUMBERS:
        return values
    texts = pc.utf8_trim_whitespace(values)
    texts = pc.if_else(pc.equal(texts, ""), None, texts)
    if decimal_comma:
        texts = pc.replace_substring(texts, ",", ".")
    pattern, meaning = _NUMBERS[kind]
    wrong = pc.invert(pc.match_substring_regex(texts, pattern, ignore_case=True))
    rows = np.flatnonzero(pc.fill_null(wrong, False).to_numpy())
    if len(rows):
        value = values[int(rows[0])].as_py()
        raise ManifestError(f"{source}: row {rows[0] + 1}: {column} must be {meaning}, got {value!r}")
    if kind == pa.int64():
        texts = pc.replace_substring_regex(texts, r"\.0*$", "")
    return texts.cast(kind)


def without_folds(table: pa.Table, name: str) -> tuple[pa.Table, bool]:
    """Remove the column `split` if it was found by a synonym and none of its values is a split.

    A column `fold` or `set` can hold numbers of a cross-validation.

    Args:
        table: Table with the column `split`.
        name: Name of the column in the file.

    Returns:
        The table, and whether the column was removed.
    """
    if normalized_name(name) == "split":
        return table, False
    values = [value for value in pc.unique(table["split"]).to_pylist() if value and value.strip()]
    if not values or any(split_names(value) for value in values):
        return table, False
    return table.drop_columns("split"), True


def _places(column: str, names: list[str], keys: list[str], taken: set[int], source: str) -> list[int]:
    """Return the position of a column as a list, empty if it has none."""
    exact = [i for i, key in enumerate(keys) if key == normalized_name(column) and i not in taken]
    if len(exact) > 1:
        raise ManifestError(f"{source}: column {column!r} appears {len(exact)} times; keep one")
    if exact:
        return exact
    # A name that is another column of the manifest is never a synonym.
    similar = [i for i, key in enumerate(keys) if key in _SYNONYMS.get(column, ()) and i not in taken]
    if len(similar) > 1:
        listed = " and ".join(repr(names[i]) for i in similar)
        raise ManifestError(
            f"{source}: columns {listed} may both be the {column}; choose one, such as"
            f" --set data.{column}_column={names[similar[0]]}"
        )
    return similar


def _missing(column: str, names: list[str], positions: Mapping[str, int]) -> str:
    free = [name for i, name in enumerate(names) if name and i not in positions.values()]
    near = difflib.get_close_matches(column, free, n=1, cutoff=0.5)
    example = near[0] if near else free[0] if len(free) == 1 else "NAME"
    question = f"; did you mean {near[0]!r}?" if near else "."
    return (
        f"column {column!r} is missing; it has {', '.join(names)}{question} Rename the column of the"
        f" {'videos' if column == 'path' else 'labels'}, or choose it: --set data.{column}_column={example}"
    )


def _refuse_mistyped(others: Sequence[str], positions: Mapping[str, int], source: str) -> None:
    absent = [name for name in SCHEMA.names if name not in positions]
    for name in others:
        if name.lower() in _UNCLEAR:
            raise ManifestError(
                f"{source}: column {name!r} may be in seconds or in frames; rename it, for example to"
                f" {'start' if name.lower() in ('start', 'begin') else 'end'}_seconds"
            )
        near = difflib.get_close_matches(name.lower(), absent, n=1, cutoff=0.8)
        if near:
            choice = f", or choose it: --set data.{near[0]}_column={name}" if near[0] in CHOSEN else ""
            raise ManifestError(
                f"{source}: no such column {name!r}; did you mean {near[0]!r}? Rename it{choice}"
            )


def _is_index(name: str) -> bool:
    return name.startswith(("Unnamed:", "__index_level_")) or name.lower() == "index"
