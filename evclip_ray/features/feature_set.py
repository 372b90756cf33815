"""Reading features by the position of a video, memory-mapped: k trials of a node share one copy."""

import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from evclip_ray.data.shards import ShardSet, open_shards
from evclip_ray.features.feature_files import feature_file, map_features
from evclip_ray.features.spec import FeatureSpec, view_key
from evclip_ray.features.views import Positions

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

    def read(self, positions: Positions, view: int = 0) -> Tensor:
        """(B, ...) a copy of one view's features of each of these videos, in the precision of the spec.

        Raises:
            ArtifactError: a file that is missing or not what it should be.
        """
        rows = [self._map(self._places[p][0], view)[self._places[p][1]] for p in positions]
        return torch.stack(rows)

    def files(self) -> Iterator[Path]:
        """All of its files."""
        for shard_key in dict.fromkeys(key for key, _ in self._places):
            for view in range(self.num_views):
                yield feature_file(self.store, self.spec.key, view_key(self.spec, shard_key, view))

    def _open(self, shard_key: str, view: int) -> Tensor:
        key = view_key(self.spec, shard_key, view)
        return map_features(feature_file(self.store, self.spec.key, key), key)
