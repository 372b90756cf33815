"""The list of videos: one row a video (or a part of one), its label, split and group.

Everything is checked when a manifest is made, by column operations, so that 650,000 rows take seconds.
A file that is listed but absent is no error here: decoding counts it as skipped, and verifying finds it.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv, parquet

from evclip_ray.artifacts import replacing
from evclip_ray.data import manifest_checks
from evclip_ray.data.manifest_checks import SCHEMA, SPLITS, ManifestError

__all__ = ["SCHEMA", "SPLITS", "Manifest", "ManifestError", "read_manifest", "write_manifest"]

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".gif")
)
_SPLIT_FOLDERS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Rows of videos under one folder, checked.

    `table`: columns path (relative to `root`), label, split, group, start_seconds, end_seconds; the last
    four may be null, and are filled with nulls when absent. `source`: where it came from, for messages.
    `allow_leaks`: whether a file or a group may be in two splits, as in some published protocols.

    Raises:
        ManifestError: anything that would fail, or mislead, later.
    """

    table: pa.Table
    root: Path
    source: str
    allow_leaks: bool = False

    def __post_init__(self) -> None:
        root = self.root.absolute()
        table = manifest_checks.checked(
            self.table, root=root, source=self.source, allow_leaks=self.allow_leaks
        )
        object.__setattr__(self, "root", root)
        object.__setattr__(self, "table", table)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels, sorted."""
        return tuple(sorted(pc.unique(self.table["label"]).to_pylist()))

    def digest(self) -> str:
        """SHA-256, 16 hex digits, of the rows in their order; the same wherever the root is."""
        sink = pa.BufferOutputStream()
        csv.write_csv(self.table, sink)
        return hashlib.sha256(sink.getvalue()).hexdigest()[:16]

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> "Manifest":
        """The manifest of these rows, in this order.

        Raises:
            ManifestError: no indices, or one twice.
        """
        return dataclasses.replace(self, table=self.table.take(pa.array(indices, pa.int64())))

    def rows(self) -> list[dict[str, Any]]:
        """Every row as a mapping from column to value."""
        return cast(list[dict[str, Any]], self.table.to_pylist())

    def splits(self) -> tuple[str, ...]:
        """The splits that have rows, in the order train, val, test."""
        found = set(pc.unique(self.table["split"]).to_pylist())
        return tuple(name for name in SPLITS if name in found)

    def in_split(self, name: str) -> NDArray[np.int64]:
        """The indices of the rows of a split, ascending."""
        mask = pc.fill_null(pc.equal(self.table["split"], name), False)
        return np.flatnonzero(mask.to_numpy())

    def column(self, name: str) -> list[Any]:
        """The values of a column, in the order of the rows."""
        return cast(list[Any], self.table[name].to_pylist())


def read_manifest(path: Path | str, *, root: Path | str | None = None, allow_leaks: bool = False) -> Manifest:
    """A manifest from a CSV or Parquet file, or a folder of class folders.

    A folder is read as `<class>/<file>`, or as `<split>/<class>/<file>` when its folders are named
    train, val (or validation) and test. `root`: the folder that paths are relative to; by default the
    one that holds the manifest. `allow_leaks`: see `Manifest`.

    Raises:
        ManifestError: see `Manifest`; or the file is missing or of another kind.
    """
    path = Path(path)
    if path.is_dir():
        return Manifest(_read_folder(path), path, str(path), allow_leaks)
    if not path.exists():
        raise ManifestError(f"{path}: no such manifest; check the path")
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ManifestError(f"{path}: must be a .csv, a .parquet or a folder, got {path.suffix!r}")
    try:
        table = reader(path)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ManifestError(f"{path}: {_explain(str(error))}") from None
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror or error})") from None
    return Manifest(table, path.parent if root is None else Path(root), str(path), allow_leaks)


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a .csv or .parquet, whole or not at all; columns without a value are left out.

    Paths stay relative to the manifest's root: give `read_manifest` that root when the file is elsewhere.
    """
    table = manifest.table
    empty = [name for name in table.column_names if table[name].null_count == len(manifest)]
    with replacing(path) as temporary:
        if path.suffix.lower() == ".parquet":
            parquet.write_table(table.drop_columns(empty), temporary)
        else:
            csv.write_csv(table.drop_columns(empty), temporary)


def _read_csv(path: Path) -> pa.Table:
    if path.stat().st_size == 0:
        raise ManifestError(f"{path}: is empty; it needs at least the columns path,label and one row")
    options = csv.ConvertOptions(
        column_types=SCHEMA, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=True
    )
    return csv.read_csv(path, convert_options=options)


def _read_parquet(path: Path) -> pa.Table:
    return parquet.ParquetFile(path).read()


def _explain(error: str) -> str:
    if "UTF8" in error or "UTF-8" in error:
        return "must be UTF-8 text; save it as UTF-8"
    return error.splitlines()[0].removeprefix("CSV parse error: ").removeprefix("CSV conversion error ")


def _read_folder(folder: Path) -> pa.Table:
    paths = sorted(
        os.path.relpath(Path(parent) / name, folder)
        for parent, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in VIDEO_SUFFIXES
    )
    if not paths:
        raise ManifestError(f"{folder}: holds no video; it needs folders named by class, with videos in them")
    parts = [Path(path).parts for path in paths]
    has_splits = {part[0] for part in parts} <= set(_SPLIT_FOLDERS)
    loose = next((path for path, part in zip(paths, parts, strict=True) if len(part) < 2 + has_splits), None)
    if loose is not None:
        raise ManifestError(f"{folder}: {loose} is in no class folder; move it into one")
    columns = {"path": paths, "label": [part[1 if has_splits else 0] for part in parts]}
    if has_splits:
        columns["split"] = [_SPLIT_FOLDERS[part[0]] for part in parts]
    return pa.table(columns)
