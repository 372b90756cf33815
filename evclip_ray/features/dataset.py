"""Memory-mapped features, read by the position of a video.

The k trials of a node share one copy in the page cache. The file may be on shared storage or on the
node's own disk (`node_cache`).
"""

import functools
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from evclip_ray.data.shards.node_cache import node_copy
from evclip_ray.data.shards.prepare import ShardSet, open_shards
from evclip_ray.data.transfers import Positions
from evclip_ray.features.format import MappedFeatures, bits, feature_file, is_sound, map_file
from evclip_ray.features.spec import FeatureSpec, view_key

# Each mapped file holds a descriptor, and a process may open about a thousand.
_OPEN_FILES = 256


class FeatureSet:
    """Features of the videos of a shard set.

    Args:
        store: Cache folder.
        spec: Kind of features and network.
        shards: The videos, by position.
        num_views: V, views per video.
    """

    def __init__(self, store: Path, spec: FeatureSpec, shards: ShardSet, num_views: int) -> None:
        self.store, self.spec, self.num_views = store, spec, num_views
        # A feature file has one row per decodable video of its shard, even if `shards` is a subset of them.
        files = open_shards(shards.folder).files()
        rows = {(file, batch): row for file, videos in files.items() for row, (_, batch) in enumerate(videos)}
        # By position: the key of the video's shard, and its row in the feature files of that shard.
        self._rows: list[tuple[str, int]] = [("", 0)] * len(shards)
        for file, videos in shards.files().items():
            key = shards.file_key(file)
            for position, batch in videos:
                self._rows[position] = (key, rows[file, batch])
        self._map = functools.lru_cache(_OPEN_FILES)(self._open)

    def read(
        self, positions: Positions, view: int = 0, *, pinned: bool = False, release: bool = False
    ) -> Tensor:
        """Copy one view's features of each video.

        Args:
            positions: B videos.
            view: View number, from 0.
            pinned: Copy into pinned memory, for a transfer to a GPU.
            release: Drop the rows from this process's memory afterwards (for sets larger than memory).

        Returns:
            (B, ...) in the precision of the spec.

        Raises:
            ArtifactError: a file is missing or damaged.
        """
        sources = [(self._map(key, view), row) for key, row in (self._rows[p] for p in positions)]
        values = sources[0][0].values
        batch = torch.empty((len(sources), *values.shape[1:]), dtype=values.dtype, pin_memory=pinned)
        # NumPy copies, not torch: a torch copy in the reading thread starts an OpenMP team of its own. There
        # are then more threads than cores, and the training thread's team sleeps between its loops.
        target = bits(batch)
        for slot, (mapped, row) in enumerate(sources):
            target[slot] = mapped.rows[row]
            if release:
                mapped.release(row)
        return batch

    def prefetch(self, positions: Positions, view: int = 0) -> None:
        """Start reading from disk the rows that `read` will need soon."""
        for key, row in (self._rows[p] for p in positions):
            self._map(key, view).prefetch(row)

    @functools.cached_property
    def bytes_per_view(self) -> int:
        """Size of one view of one video."""
        values = self._map(self._rows[0][0], 0).values
        return math.prod(values.shape[1:]) * values.element_size()

    def files(self) -> Iterator[Path]:
        """Yield all feature files of the set."""
        for shard_key in dict.fromkeys(key for key, _ in self._rows):
            for view in range(self.num_views):
                yield feature_file(self.store, self.spec.key, view_key(self.spec, shard_key, view))

    def _open(self, shard_key: str, view: int) -> MappedFeatures:
        key = view_key(self.spec, shard_key, view)
        path = feature_file(self.store, self.spec.key, key)
        return map_file(node_copy(path, functools.partial(is_sound, key=key)), key)
