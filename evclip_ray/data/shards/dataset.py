"""Memory-mapped reading of a folder of shards by the position of a video, without Ray."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evclip_ray.artifacts import ArtifactError, read_ledger, replacing
from evclip_ray.data.shards.format import frames_of
from evclip_ray.data.shards.memory_map import MemoryMap
from evclip_ray.data.shards.node_cache import node_copy
from evclip_ray.data.video.view import ViewConfig

STAGE = "shards"
INDEX = "index.arrow"
INDEX_SCHEMA = pa.schema(
    {
        "file": pa.string(),
        "batch": pa.int32(),
        "row": pa.int64(),
        "path": pa.string(),
        "label": pa.string(),
        "split": pa.string(),
        "group": pa.string(),
    }
)
SIZE_COLUMNS = {"height": pa.int32(), "width": pa.int32()}
"""Further columns of the index of videos that keep their aspect ratio."""

_KEY = b"evclip_ray.key"
# Each mapped shard holds a file descriptor, and a process may open about a thousand.
_OPEN_FILES = 128

Positions = Sequence[int] | NDArray[np.int64]
Frames = NDArray[np.uint8] | list[NDArray[np.uint8]]
"""Frames of B videos: (B, T, H, W, 3), or B times (T, H, W, 3) where they differ in size."""


class ShardSet:
    """Videos of a shard folder that decoded, by position 0 to len - 1; pickles as its path.

    Attributes:
        folder: The folder.
        ledger: Its ledger.
        key: Digest of everything that the shards depend on.
    """

    def __init__(self, folder: Path, positions: Positions | None = None) -> None:
        self.folder = folder
        self.ledger = read_ledger(folder, STAGE)
        self.key = str(self.ledger["key"])
        self._positions = positions
        index = _read_index(folder, self.key)
        self._index = index if positions is None else index.take(pa.array(positions, pa.int64()))
        # A cache of the instance, not of the class: the maps are closed with the set.
        self._file = functools.lru_cache(_OPEN_FILES)(self._map)

    # A memory map cannot be pickled, so each process opens its own maps.
    def __reduce__(self) -> tuple[Any, ...]:
        return ShardSet, (self.folder, self._positions)

    def __len__(self) -> int:
        return int(self._index.num_rows)

    @functools.cached_property
    def view(self) -> ViewConfig:
        """Sampling and size of each view."""
        return ViewConfig.load(self.ledger["inputs"]["view"])

    @property
    def num_views(self) -> int:
        """V: view 0 is deterministic, the others are seeded random draws."""
        return int(self.ledger["inputs"]["num_views"])

    @property
    def skipped(self) -> list[dict[str, Any]]:
        """The videos that did not decode: `row`, `path`, `reason`."""
        return list(self.ledger["skipped"])

    @functools.cached_property
    def labels(self) -> list[str]:
        """Label of each video."""
        return self._column("label")

    @functools.cached_property
    def paths(self) -> list[str]:
        """Path of each video, relative to its manifest's root."""
        return self._column("path")

    @functools.cached_property
    def splits(self) -> list[str | None]:
        """Split of each video."""
        return self._column("split")

    @functools.cached_property
    def groups(self) -> list[str | None]:
        """Group of each video."""
        return self._column("group")

    @functools.cached_property
    def rows(self) -> NDArray[np.int64]:
        """Manifest row of each video."""
        return np.asarray(self._column("row"), dtype=np.int64)

    @functools.cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(M, 2) height and width of the stored frames of each video, in pixels."""
        if self.view.fixed_size is not None:
            return np.tile(np.array(self.view.fixed_size, np.int64), (len(self), 1))
        columns = [self._index[name].to_numpy() for name in SIZE_COLUMNS]
        return np.stack(columns, axis=1).astype(np.int64)

    def shapes(self, positions: Positions) -> list[tuple[int, int, int, int]]:
        """Return (T, H, W, 3) of one view of each video."""
        sizes = self.sizes[np.asarray(positions, dtype=np.int64)].tolist()
        return [(self.view.num_frames, height, width, 3) for height, width in sizes]

    @property
    def bytes_per_view(self) -> int:
        """Size of one view of a video, the mean over the videos."""
        mean = float(self.sizes.prod(axis=1).mean()) if len(self) else 0.0
        return round(3 * self.view.num_frames * mean)

    def split(self, name: str) -> NDArray[np.int64]:
        """Return the positions of the videos of a split, in ascending order."""
        matches = pc.fill_null(pc.equal(self._index["split"], name), False)
        return np.flatnonzero(matches.to_numpy())

    def subset(self, positions: Positions) -> "ShardSet":
        """Return the set of these videos only, in this order."""
        current = np.arange(len(self)) if self._positions is None else np.asarray(self._positions)
        # Positions always refer to the whole index, so that a subset of a subset pickles in the same way.
        return ShardSet(self.folder, current[np.asarray(positions, dtype=np.int64)])

    def views(self, position: int) -> NDArray[np.uint8]:
        """Return all views of a video, (V, T, H, W, 3) uint8, as the file's own read-only pages."""
        # The column of frames is a slice of the map. Only the metadata of the batch is read here, no frame.
        batch = self._file(self._files[position]).reader.get_batch(int(self._batches[position]))
        return frames_of(batch, self.view.num_frames)

    def frames(
        self,
        positions: Positions,
        view: int = 0,
        *,
        out: NDArray[np.uint8] | None = None,
        release: bool = False,
    ) -> Frames:
        """Copy one view of each video.

        Args:
            positions: B videos.
            view: View number, from 0.
            out: Memory to copy to, one video after the other; new memory by default.
            release: Drop the frames from this process's memory afterwards (for sets larger than memory).

        Returns:
            (B, T, H, W, 3) uint8 if all B videos have one size, otherwise a list of (T, H, W, 3).

        Raises:
            ValueError: there is no such view.
        """
        if not 0 <= view < self.num_views:
            raise ValueError(f"view must be 0 to {self.num_views - 1}, got {view}; prepare more views")
        shapes = self.shapes(positions)
        bounds = np.cumsum([0, *map(math.prod, shapes)])
        # Uninitialised memory, because every byte is written below.
        memory = np.empty(bounds[-1], dtype=np.uint8) if out is None else out
        batch = [memory[a:b].reshape(shape) for a, b, shape in zip(bounds, bounds[1:], shapes, strict=False)]
        for copy, position in zip(batch, positions, strict=True):
            frames = self.views(int(position))[view]
            # The copy is the only access to the frames: page faults read them from the page cache or from
            # disk.
            copy[:] = frames
            if release:
                self._file(self._files[int(position)]).release(frames.ctypes.data, frames.nbytes)
        if len(set(shapes)) > 1:
            return batch
        shape = shapes[0] if shapes else (self.view.num_frames, self.view.shortest, self.view.shortest, 3)
        return memory[: bounds[-1]].reshape(len(batch), *shape)

    def prefetch(self, positions: Positions, view: int = 0) -> None:
        """Start reading from disk the views that `frames` will need soon."""
        for position in positions:
            frames = self.views(int(position))[view]
            self._file(self._files[int(position)]).prefetch(frames.ctypes.data, frames.nbytes)

    def files(self) -> dict[str, list[tuple[int, int]]]:
        """Return file -> [(position, number of the record batch)] of the videos of each shard."""
        videos: dict[str, list[tuple[int, int]]] = {}
        for position, (file, batch) in enumerate(zip(self._files, self._batches, strict=True)):
            videos.setdefault(file, []).append((position, batch))
        return videos

    def file_key(self, file: str) -> str:
        """Return the digest of everything that the bytes of one shard depend on."""
        return str(self._file(file).reader.schema.metadata[_KEY].decode())

    @functools.cached_property
    def _files(self) -> list[str]:
        return self._column("file")

    @functools.cached_property
    def _batches(self) -> list[int]:
        return self._column("batch")

    def _column(self, name: str) -> list[Any]:
        return cast(list[Any], self._index[name].to_pylist())

    def _map(self, file: str) -> MemoryMap:
        try:
            return MemoryMap(node_copy(self.folder / file))
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{self.folder / file}: cannot be read ({error}); prepare the shards again"
            ) from None


def open_shards(folder: Path | str) -> ShardSet:
    """Open the shards of a folder that `prepare_shards` finished.

    Raises:
        ArtifactError: the folder is unfinished or another stage's, or its index belongs to other shards.
    """
    return ShardSet(Path(folder).absolute())


def write_index(folder: Path, rows: list[dict[str, Any]], key: str) -> None:
    """Write the index of the videos that decoded.

    Args:
        folder: Folder of the shards.
        rows: Columns of `INDEX_SCHEMA`, and those of `SIZE_COLUMNS` if videos keep their aspect ratio.
        key: Digest of everything that the shards depend on.
    """
    schema = INDEX_SCHEMA
    for name, kind in SIZE_COLUMNS.items():
        if name in rows[0]:
            schema = schema.append(pa.field(name, kind))
    table = pa.Table.from_pylist(rows, schema.with_metadata({_KEY: key.encode()}))
    with replacing(folder / INDEX) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table)


def _read_index(folder: Path, key: str) -> pa.Table:
    path = folder / INDEX
    try:
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            table = reader.read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); prepare the shards again") from None
    # The index of another preparation would pair frames with the wrong labels.
    if (table.schema.metadata or {}).get(_KEY) != key.encode():
        raise ArtifactError(f"{path}: belongs to other shards than the ledger does; prepare the shards again")
    return table
