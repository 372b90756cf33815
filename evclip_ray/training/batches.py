"""The batches of an epoch: pixels only where something is computed from them, features from disk.

Reading is one batch ahead of the step, in a thread, into pinned memory where there is a GPU; cropping
and normalising happen on the device.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evclip_ray.data.transforms import AugmentConfig, crop_batch
from evclip_ray.features.feature_set import FeatureSet
from evclip_ray.features.views import cut_views, read_frames
from evclip_ray.models.methods.base import VideoBatch
from evclip_ray.training.videos import VideoSet

Positions = npt.NDArray[np.int64]


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
        self, groups: Sequence[Positions], *, view: int = 0, generator: torch.Generator | None = None
    ) -> Iterator[VideoBatch]:
        """A batch of view `view` of each group of positions; fresh augmentation draws from `generator`."""
        for read in self._reads(groups, view):
            yield VideoBatch(
                None if read.frames is None else self._cut(read, view, generator),
                labels=torch.from_numpy(self.videos.labels[read.positions]).to(self.device)
                if self.labelled
                else None,
                **{kind: self._moved(values) for kind, values in read.features.items()},
            )

    def _reads(self, groups: Sequence[Positions], view: int) -> Iterator[_Read]:
        if not self.pixels:
            # A few kilobytes from mapped pages: less than it costs to hand them over between threads.
            yield from (self._read(positions, view) for positions in groups)
            return
        with ThreadPoolExecutor(1) as reader:
            waiting: Future[_Read] | None = None
            for positions in groups:
                ready, waiting = waiting, reader.submit(self._read, positions, view)
                if ready is not None:
                    yield ready.result()
            if waiting is not None:
                yield waiting.result()

    def _read(self, positions: Positions, view: int) -> _Read:
        frames = read_frames(self.videos.shards, positions, view) if self.pixels else None
        features = {kind: found.read(positions, view) for kind, found in self.features.items()}
        if self.device.type == "cuda":
            frames = None if frames is None else frames.pin_memory()
            features = {kind: values.pin_memory() for kind, values in features.items()}
        return _Read(positions, frames, features)

    def _cut(self, read: _Read, view: int, generator: torch.Generator | None) -> Tensor:
        assert read.frames is not None
        frames = self._moved(read.frames)
        if self.bank is None and self.augment is not None:
            labels = [self.videos.shards.labels[p] for p in read.positions]
            return crop_batch(
                frames, size=self.size, augment=self.augment, generator=generator, labels=labels
            )
        return cut_views(
            frames, self.videos.shards, read.positions, view, size=self.size, augment=self.augment
        )

    def _moved(self, values: Tensor) -> Tensor:
        return values.to(self.device, non_blocking=True)
