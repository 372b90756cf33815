"""Batches of an epoch: pixels for the methods that need them, cached features from disk.

A thread reads one batch ahead of the training step, into pinned memory if there is a GPU. The GPU copies it
while it computes the step before. Cropping and normalising run on the device. For a set that does not fit in
memory, the pages of later batches are requested from the disk as well.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evclip_ray.data.shards.memory_map import memory_bytes
from evclip_ray.data.transfers import read_frames, upload, upload_tensor
from evclip_ray.data.transforms import AugmentConfig, Frames, crop_batch
from evclip_ray.features.dataset import FeatureSet
from evclip_ray.features.view_cache import crop_views
from evclip_ray.models.batch import VideoBatch
from evclip_ray.training.datamodule import VideoSet
from evclip_ray.training.distributed import Workers

Positions = npt.NDArray[np.int64]


_MEMORY_SHARE = 0.5
"""Share of the memory that a set may fill. A larger one would evict its own pages, or swap out the trials."""

_AHEAD_BYTES = 2**26
"""Bytes requested ahead from the disk: enough to keep it busy. At least two batches are requested."""


class _Part(NamedTuple):
    """Share of a batch that one worker computes: rows `first`, `first + 1`, ... of `total`."""

    positions: Positions
    first: int
    total: int

    @classmethod
    def of(cls, group: Positions, workers: Workers) -> Self:
        """Split a batch as evenly as possible and return this worker's part."""
        # Every worker splits the same group in the same way, so no communication is needed.
        parts = np.array_split(group, workers.count)
        first = sum(len(part) for part in parts[: workers.rank])
        return cls(parts[workers.rank], first, len(group))


class _Read(NamedTuple):
    """Data read for one batch: `frames` uint8 or None, and `features` by field name."""

    positions: Positions
    frames: Frames | None
    features: dict[str, Tensor]


class Batches:
    """Iterator over the batches of one split.

    Args:
        videos: The decoded videos of the split.
        size: Side of a view in pixels.
        device: Device that crops the views and receives the batch.
        augment: Random augmentation; None gives the fixed view.
        bank: Number of cached augmented views per video; None draws a new view every time.
        features: Cached features, by field of `VideoBatch`.
        pixels: Whether the method reads pixels.
        labelled: Whether a batch holds its labels, as in training.
        with_classes: Whether a labelled batch also holds its distinct classes. Only a method that reads them
            needs them: their number differs between batches.
    """

    def __init__(
        self,
        videos: VideoSet,
        *,
        size: int,
        device: torch.device,
        augment: AugmentConfig | None = None,
        bank: int | None = None,
        features: Mapping[str, FeatureSet] | None = None,
        pixels: bool = True,
        labelled: bool = False,
        with_classes: bool = False,
    ) -> None:
        self.videos, self.size, self.device = videos, size, device
        self.augment, self.bank, self.features = augment, bank, features or {}
        self.pixels, self.labelled, self.with_classes = pixels, labelled, with_classes

    @property
    def num_views(self) -> int:
        """Number of views that successive epochs cycle through."""
        return self.bank or self.videos.shards.num_views

    def __call__(
        self,
        groups: Sequence[Positions],
        *,
        view: int = 0,
        generator: torch.Generator | None = None,
        workers: Workers | None = None,
    ) -> Iterator[VideoBatch]:
        """Yield one batch per group of positions.

        Args:
            groups: Positions of the videos of each batch.
            view: Index of the view to read.
            generator: Source of fresh augmentation.
            workers: Processes that share each batch. The part of this process is augmented as it would be
                in the whole batch.
        """
        parts = [_Part.of(group, workers or Workers()) for group in groups]
        for part, read in zip(parts, self._reads([p.positions for p in parts], view), strict=True):
            yield VideoBatch(
                None if read.frames is None else self._cut(read, part, view, generator),
                **(self._labels(read.positions) if self.labelled else {}),
                **{kind: upload_tensor(values, self.device) for kind, values in read.features.items()},
            )

    def _reads(self, groups: Sequence[Positions], view: int) -> Iterator[_Read]:
        if not self.pixels and not self.streams:
            # A few kilobytes from mapped pages cost less than a hand-over between threads.
            yield from (self._read(positions, view) for positions in groups)
            return
        distance = self._distance(groups)
        # One thread runs its tasks in order of submission: requests for later batches are sent before the
        # read of the current batch, and the disk serves them while the thread copies.
        with ThreadPoolExecutor(1) as reader:
            requested = 0
            waiting: Future[_Read] | None = None
            for number, positions in enumerate(groups):
                # The request window grows by two batches per step, so that the first batch does not wait
                # for the requests of all later ones.
                until = min(number + distance, 2 * number + 2) if distance else 0
                for later in groups[requested:until]:
                    reader.submit(self._prefetch, later, view)
                requested = max(requested, until)
                # The next batch is read while the caller trains on the previous one. At most two batches are
                # in memory.
                ready, waiting = waiting, reader.submit(self._read, positions, view)
                if ready is not None:
                    yield ready.result()
            if waiting is not None:
                yield waiting.result()

    @functools.cached_property
    def streams(self) -> bool:
        """Whether the split is too large for the memory, so that every epoch reads it from the disk."""
        features = sum(one.bytes_per_view * one.num_views for one in self.features.values())
        shards = self.videos.shards
        frames = shards.bytes_per_view * shards.num_views if self.pixels else 0
        # All views count: successive epochs read different ones, and the page cache must hold them all.
        return len(self.videos) * (features + frames) > _MEMORY_SHARE * memory_bytes()

    def _distance(self, groups: Sequence[Positions]) -> int:
        """Return the number of batches to request ahead; 0 if the set stays in memory."""
        if not self.streams or not len(groups):
            return 0
        bytes_per_video = sum(one.bytes_per_view for one in self.features.values())
        bytes_per_video += self.videos.shards.bytes_per_view if self.pixels else 0
        return max(2, _AHEAD_BYTES // (bytes_per_video * max(len(groups[0]), 1)))

    def _prefetch(self, positions: Positions, view: int) -> None:
        if self.pixels:
            self.videos.shards.prefetch(positions, view % self.videos.shards.num_views)
        for one in self.features.values():
            one.prefetch(positions, view)

    def _read(self, positions: Positions, view: int) -> _Read:
        options = {"pinned": self.device.type == "cuda", "release": self.streams}
        frames = read_frames(self.videos.shards, positions, view, **options) if self.pixels else None
        features = {field: one.read(positions, view, **options) for field, one in self.features.items()}
        return _Read(positions, frames, features)

    def _labels(self, positions: Positions) -> dict[str, Tensor]:
        labels = self.videos.labels[positions]
        # Found here, because a GPU would have to be read for the number of classes.
        arrays = {"labels": labels} | ({"classes": np.unique(labels)} if self.with_classes else {})
        return {name: upload_tensor(torch.from_numpy(array), self.device) for name, array in arrays.items()}

    def _cut(self, read: _Read, part: _Part, view: int, generator: torch.Generator | None) -> Tensor:
        assert read.frames is not None
        frames = upload(read.frames, self.device)
        # Fresh augmentation is drawn from the generator for the whole batch; `first` and `total` select this
        # worker's draws. Cached views have a crop that depends only on the video and the view.
        if self.bank is None and self.augment is not None:
            labels = [self.videos.shards.labels[p] for p in read.positions]
            return crop_batch(
                frames,
                size=self.size,
                augment=self.augment,
                generator=generator,
                labels=labels,
                first=part.first,
                total=part.total,
            )
        return crop_views(
            frames, self.videos.shards, read.positions, view, size=self.size, augment=self.augment
        )
