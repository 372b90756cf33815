"""Pixels of fixed views, identical for the cached network and for the mask that is trained on them."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evclip_ray.data.shards.prepare import ShardSet
from evclip_ray.data.transforms import AugmentConfig, Frames, cached_view_seed, cached_views, crop_batch

Positions = Sequence[int] | npt.NDArray[np.int64]


def read_frames(
    shards: ShardSet, positions: Positions, view: int, *, pinned: bool = False, release: bool = False
) -> Frames:
    """Read the stored frames from which cached view `view` is cropped: uint8, see `Frames`.

    Cached views cycle through the stored temporal views: with 2 of those, the cached views 0, 2 and 4 are
    cropped from the first one.

    Args:
        shards: The shard set of the videos.
        positions: Positions of the B videos in `shards`.
        view: Number of the cached view, from 0.
        pinned: Copy into pinned memory, for a transfer to a GPU.
        release: Drop the frames from this process's memory afterwards (for sets larger than memory).
    """
    shapes = shards.shapes(positions)
    sizes = [math.prod(shape) for shape in shapes]
    memory = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=pinned)
    # `memory.numpy()` is the tensor's own memory, so the frames are copied once, pinned or not.
    copied = shards.frames(positions, view % shards.num_views, out=memory.numpy(), release=release)
    if isinstance(copied, np.ndarray):
        return memory.view(copied.shape)
    return [video.view(shape) for video, shape in zip(memory.split(sizes), shapes, strict=True)]


def crop_views(
    frames: Frames,
    shards: ShardSet,
    positions: Positions,
    view: int,
    *,
    size: int,
    augment: AugmentConfig | None,
) -> Tensor:
    """Crop cached view `view` of B videos to (B, T, 3, size, size) float32.

    Args:
        frames: uint8 frames from `read_frames`.
        shards: The shard set of the videos.
        positions: Positions of the B videos in `shards`.
        view: View number, from 0.
        size: Side of the crop in pixels.
        augment: Augmentation of the cached training views; None for the one fixed view of evaluation.
    """
    if augment is None:
        return crop_batch(frames, size=size)
    # Seeds depend on path and row and not on the position, so that a subset has the same views as the whole
    # set.
    seeds = [cached_view_seed(shards.paths[p], int(shards.rows[p]), view) for p in positions]
    labels = [shards.labels[p] for p in positions]
    return cached_views(frames, size=size, augment=augment, seeds=seeds, labels=labels)
