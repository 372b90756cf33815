"""Manifest of a data set: one row per video or part of a video, with its label, split and group.

All rows are checked when a manifest is created, by column operations, so that 650,000 rows take seconds.
A listed file that is absent is not an error here. Decoding counts it as skipped, and `integrity` reports it.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv, parquet

from evclip_ray.artifacts import replacing
from evclip_ray.data import storage
from evclip_ray.data.manifest import validation
from evclip_ray.data.manifest.class_folders import read_folder
from evclip_ray.data.manifest.located_files import fit_paths
from evclip_ray.data.manifest.table_files import ENDINGS, read_table
from evclip_ray.data.manifest.validation import SCHEMA, SPLITS, ManifestError
from evclip_ray.data.storage import Place

_MISSING = "no such manifest; check the path, or give its new place with --data"

__all__ = ["SCHEMA", "SPLITS", "Manifest", "ManifestError", "read_manifest", "write_manifest"]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Validated rows of videos.

    Attributes:
        table: The columns of `SCHEMA`: path, label, split, group, the part as in `decode.Part`, and mask. All
            but the first two can be null, and absent ones are filled with nulls. A path is that of a file or
            a folder of frames, relative to `root`, or a URI. A mask is named likewise, see `data.masks`.
        root: Absolute folder or URI.
        source: Origin of the rows, for messages.
        allow_leaks: True if a file or a group may be in two splits, as in some published protocols.

    Raises:
        ManifestError: A row is invalid, see `validation`.
    """

    table: pa.Table
    root: Place
    source: str
    allow_leaks: bool = False

    def __post_init__(self) -> None:
        root = storage.place(self.root)
        root = root.absolute() if isinstance(root, Path) else root
        table = validation.checked(self.table, root=root, source=self.source, allow_leaks=self.allow_leaks)
        # A frozen dataclass forbids plain assignment here too. It is frozen so that its table stays valid.
        object.__setattr__(self, "root", root)
        object.__setattr__(self, "table", table)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels in alphabetical order."""
        return tuple(sorted(pc.unique(self.table["label"]).to_pylist()))

    def locate(self, path: str) -> Place:
        """Return the location of the video with this path."""
        return storage.locate(self.root, path)

    def digest(self) -> str:
        """Return 16 hex digits of the SHA-256 of the rows in their order.

        It depends neither on the root nor on the masks, which decide neither pixels nor labels.
        """
        # As CSV, because the bytes of Arrow and Parquet files depend on chunks and library versions.
        sink = pa.BufferOutputStream()
        csv.write_csv(self.table.drop_columns("mask"), sink)
        return hashlib.sha256(sink.getvalue()).hexdigest()[:16]

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> "Manifest":
        """Return the manifest of these rows, in this order.

        Raises:
            ManifestError: There are no indices, or one occurs twice.
        """
        # `replace` runs all checks again, which refuse an index that occurs twice.
        return dataclasses.replace(self, table=self.table.take(pa.array(indices, pa.int64())))

    def rows(self) -> list[dict[str, Any]]:
        """Return every row as a mapping from column to value."""
        return cast(list[dict[str, Any]], self.table.to_pylist())

    def splits(self) -> tuple[str, ...]:
        """Return the splits that have rows, in the order train, val, test."""
        present = set(pc.unique(self.table["split"]).to_pylist())
        return tuple(name for name in SPLITS if name in present)

    def in_split(self, name: str) -> NDArray[np.int64]:
        """Return the indices of the rows of a split, ascending."""
        mask = pc.fill_null(pc.equal(self.table["split"], name), False)
        return np.flatnonzero(mask.to_numpy())

    def column(self, name: str) -> list[Any]:
        """Return the values of a column, in the order of the rows."""
        return cast(list[Any], self.table[name].to_pylist())


def read_manifest(
    path: Place,
    *,
    root: Place | None = None,
    allow_leaks: bool = False,
    columns: Mapping[str, str] | None = None,
) -> Manifest:
    """Read a manifest from a CSV, TSV, text or Parquet file, or from a folder of class folders.

    Args:
        path: Local path or URI. A folder is read as `<class>/<video>`, or as `<split>/<class>/<video>` if its
            folders are named like splits (train, Valid, testing).
        root: Folder that the paths are relative to; by default the folder of the manifest.
        allow_leaks: See `Manifest`.
        columns: Column -> its name in the file, see `columns.CHOSEN`. Usual names need no entry.

    Raises:
        ManifestError: See `Manifest`; or the file is missing or has another format.
        StorageError: See `storage`.
    """
    path = storage.place(path)
    source, suffix = str(path), PurePosixPath(str(path)).suffix.lower()
    if storage.is_folder(path):
        return Manifest(read_folder(path), path, source, allow_leaks)
    if suffix not in ENDINGS:
        if isinstance(path, Path) and path.exists():
            known = ", ".join(f"a {ending}" for ending in ENDINGS)
            raise ManifestError(f"{path}: must be {known} or a folder, got {suffix!r}")
        raise ManifestError(f"{path}: {_MISSING}")
    try:
        with storage.open_binary(path) as stream:
            table = read_table(stream, source, columns)
    except FileNotFoundError:
        raise ManifestError(f"{path}: {_MISSING}") from None
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ManifestError(f"{path}: {str(error).splitlines()[0]}") from None
    except storage.StorageError:
        raise
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror or error})") from None
    is_chosen, root = root is not None, storage.place(_parent(path) if root is None else root)
    if isinstance(root, Path):
        table = fit_paths(table, root.absolute(), source, is_chosen=is_chosen)
    return Manifest(table, root, source, allow_leaks)


def _parent(path: Place) -> Place:
    return path.parent if isinstance(path, Path) else path.rpartition("/")[0]


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a .csv or .parquet file atomically. Columns without values are left out.

    Paths stay relative to the manifest's root. Pass that root to `read_manifest` if the file is elsewhere.
    """
    table = manifest.table
    empty = [name for name in table.column_names if table[name].null_count == len(manifest)]
    with replacing(path) as temporary:
        if path.suffix.lower() == ".parquet":
            parquet.write_table(table.drop_columns(empty), temporary)
        else:
            csv.write_csv(table.drop_columns(empty), temporary)
