"""Pixels of fixed views, identical for the cached network and for the mask that is trained on them."""

from torch import Tensor

from evclip_ray.data.shards.prepare import ShardSet
from evclip_ray.data.transfers import Positions
from evclip_ray.data.transforms import AugmentConfig, Frames, cached_view_seed, cached_views, crop_batch


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
