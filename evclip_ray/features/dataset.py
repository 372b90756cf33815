"""Reading features by the position of a video, memory-mapped: k trials of a node share one copy.

Where the copy is, on shared storage or on the node's own disk, is `local_copies`' business.
"""

import functools
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from evclip_ray.data.shards.node_cache import nearby
from evclip_ray.data.shards.prepare import ShardSet, open_shards
from evclip_ray.features.format import Mapped, bits, feature_file, is_sound, map_file
from evclip_ray.features.spec import FeatureSpec, view_key
from evclip_ray.features.view_cache import Positions

# As for frames: each map holds a file descriptor.
_OPEN_FILES = 256


class FeatureSet:
    """The features `spec` of the videos of `shards`, of V = `num_views` views each."""

    def __init__(self, store: Path, spec: FeatureSpec, shards: ShardSet, num_views: int) -> None:
        self.store, self.spec, self.num_views = store, spec, num_views
        # A file has a row for each video of its shard that decoded, whichever of them are read here.
        files = open_shards(shards.folder).files()
        rows = {(file, place): row for file, places in files.items() for row, (_, place) in enumerate(places)}
        self._places: list[tuple[str, int]] = [("", 0)] * len(shards)
        for file, places in shards.files().items():
            key = shards.file_key(file)
            for position, place in places:
                self._places[position] = (key, rows[file, place])
        self._map = functools.lru_cache(_OPEN_FILES)(self._open)

    def read(
        self, positions: Positions, view: int = 0, *, pinned: bool = False, once: bool = False
    ) -> Tensor:
        """(B, ...) a copy of one view's features of each of these videos, in the precision of the spec.

        `pinned`: into pinned memory, for a copy to a GPU; `once`: the rows need not stay in memory after it.

        Raises:
            ArtifactError: a file that is missing or not what it should be.
        """
        found = [(self._map(key, view), row) for key, row in (self._places[p] for p in positions)]
        values = found[0][0].values
        batch = torch.empty((len(found), *values.shape[1:]), dtype=values.dtype, pin_memory=pinned)
        # Not by torch: its copies start a team of OpenMP threads for the thread that reads, which leaves
        # more threads than cores, and then the team of the thread that trains sleeps between its loops.
        copies = bits(batch)
        for slot, (mapped, row) in enumerate(found):
            copies[slot] = mapped.rows[row]
            if once:
                mapped.done(row)
        return batch

    def ahead(self, positions: Positions, view: int = 0) -> None:
        """Begin to read from disk what `read` will be asked for soon."""
        for key, row in (self._places[p] for p in positions):
            self._map(key, view).ahead(row)

    @functools.cached_property
    def bytes_per_view(self) -> int:
        """The size of one view of one video."""
        values = self._map(self._places[0][0], 0).values
        return math.prod(values.shape[1:]) * values.element_size()

    def files(self) -> Iterator[Path]:
        """All of its files."""
        for shard_key in dict.fromkeys(key for key, _ in self._places):
            for view in range(self.num_views):
                yield feature_file(self.store, self.spec.key, view_key(self.spec, shard_key, view))

    def _open(self, shard_key: str, view: int) -> Mapped:
        key = view_key(self.spec, shard_key, view)
        path = feature_file(self.store, self.spec.key, key)
        return map_file(nearby(path, functools.partial(is_sound, key=key)), key)
