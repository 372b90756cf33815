"""The batches of an epoch: pixels only where something is computed from them, features from disk.

Reading is one batch ahead of the step, in a thread, into pinned memory where there is a GPU; cropping
and normalising happen on the device. Of a set that does not fit in memory, the disk is asked for the
batches after that one too.
"""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evclip_ray.data.shards.memory_map import memory_bytes
from evclip_ray.data.transforms import AugmentConfig, crop_batch
from evclip_ray.features.dataset import FeatureSet
from evclip_ray.features.view_cache import cut_views, read_frames
from evclip_ray.models.methods.base import VideoBatch
from evclip_ray.training.datamodule import VideoSet
from evclip_ray.training.distributed import Workers

Positions = npt.NDArray[np.int64]


# Of memory: a larger set would push itself, or the trials, out of it.
_SHARE = 0.5
# In flight from disk: enough to keep it busy, and at least two batches.
_AHEAD_BYTES = 2**26


class _Part(NamedTuple):
    """The `positions` of a batch that one worker computes: those from `first` on, of `total`."""

    positions: Positions
    first: int
    total: int

    @classmethod
    def of(cls, group: Positions, workers: Workers) -> Self:
        """A worker's part of a batch, as even as can be."""
        parts = np.array_split(group, workers.count)
        first = sum(len(part) for part in parts[: workers.rank])
        return cls(parts[workers.rank], first, len(group))


class _Read(NamedTuple):
    """What was read for a batch: `frames` (B, T, H, W, 3) uint8 or None; `features`: by field."""

    positions: Positions
    frames: Tensor | None
    features: dict[str, Tensor]


class Batches:
    """Makes the batches of one split on `device`.

    `size`: side of the views in pixels; `augment`: None for the fixed view; `bank`: views of a video, None
    to augment anew each time; `features`: by field of VideoBatch; `pixels`: whether the method reads any;
    `labelled`: whether batches hold their labels, as those of training do.
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
    ) -> None:
        self.videos, self.size, self.device = videos, size, device
        self.augment, self.bank, self.features = augment, bank, features or {}
        self.pixels, self.labelled = pixels, labelled

    @property
    def num_views(self) -> int:
        """Views that epochs go through in turn."""
        return self.bank or self.videos.shards.num_views

    def __call__(
        self,
        groups: Sequence[Positions],
        *,
        view: int = 0,
        generator: torch.Generator | None = None,
        workers: Workers | None = None,
    ) -> Iterator[VideoBatch]:
        """A batch of view `view` of each group of positions; fresh augmentation draws from `generator`.

        Of each group `workers` share, this one's part, augmented as it would be in the whole.
        """
        parts = [_Part.of(group, workers or Workers()) for group in groups]
        for part, read in zip(parts, self._reads([p.positions for p in parts], view), strict=True):
            yield VideoBatch(
                None if read.frames is None else self._cut(read, part, view, generator),
                labels=torch.from_numpy(self.videos.labels[read.positions]).to(self.device)
                if self.labelled
                else None,
                **{kind: self._moved(values) for kind, values in read.features.items()},
            )

    def _reads(self, groups: Sequence[Positions], view: int) -> Iterator[_Read]:
        if not self.pixels and not self.streams:
            # A few kilobytes from mapped pages: less than it costs to hand them over between threads.
            yield from (self._read(positions, view) for positions in groups)
            return
        distance = self._distance(groups)
        with ThreadPoolExecutor(1) as reader:
            asked = 0
            waiting: Future[_Read] | None = None
            for number, positions in enumerate(groups):
                # The first batch is not kept waiting until all of those after it are asked for.
                until = min(number + distance, 2 * number + 2) if distance else 0
                for later in groups[asked:until]:
                    reader.submit(self._ask, later, view)
                asked = max(asked, until)
                ready, waiting = waiting, reader.submit(self._read, positions, view)
                if ready is not None:
                    yield ready.result()
            if waiting is not None:
                yield waiting.result()

    @functools.cached_property
    def streams(self) -> bool:
        """Whether the split is too large to stay in memory, and is read from disk in every epoch."""
        features = sum(found.bytes_per_view * found.num_views for found in self.features.values())
        shards = self.videos.shards
        frames = math.prod(shards.view.shape) * shards.num_views if self.pixels else 0
        return len(self.videos) * (features + frames) > _SHARE * memory_bytes()

    def _distance(self, groups: Sequence[Positions]) -> int:
        """How many batches ahead the disk is asked for; 0 where the set is in memory."""
        if not self.streams or not len(groups):
            return 0
        each = sum(found.bytes_per_view for found in self.features.values())
        each += math.prod(self.videos.shards.view.shape) if self.pixels else 0
        return max(2, _AHEAD_BYTES // (each * max(len(groups[0]), 1)))

    def _ask(self, positions: Positions, view: int) -> None:
        if self.pixels:
            self.videos.shards.ahead(positions, view % self.videos.shards.num_views)
        for found in self.features.values():
            found.ahead(positions, view)

    def _read(self, positions: Positions, view: int) -> _Read:
        how = {"pinned": self.device.type == "cuda", "once": self.streams}
        frames = read_frames(self.videos.shards, positions, view, **how) if self.pixels else None
        features = {kind: found.read(positions, view, **how) for kind, found in self.features.items()}
        return _Read(positions, frames, features)

    def _cut(self, read: _Read, part: _Part, view: int, generator: torch.Generator | None) -> Tensor:
        assert read.frames is not None
        frames = self._moved(read.frames)
        if self.bank is None and self.augment is not None:
            labels = [self.videos.shards.labels[p] for p in read.positions]
            return crop_batch(
                frames, size=self.size, augment=self.augment, generator=generator, labels=labels,
                first=part.first, total=part.total,
            )  # fmt: skip
        return cut_views(
            frames, self.videos.shards, read.positions, view, size=self.size, augment=self.augment
        )

    def _moved(self, values: Tensor) -> Tensor:
        return values.to(self.device, non_blocking=True)
