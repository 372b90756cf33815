"""The pixels of a fixed view: the same for the network that is cached and for the mask that is trained."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evclip_ray.data.shards.prepare import ShardSet
from evclip_ray.data.transforms import AugmentConfig, bank_seed, bank_views, crop_batch

Positions = Sequence[int] | npt.NDArray[np.int64]


def read_frames(
    shards: ShardSet, positions: Positions, view: int, *, pinned: bool = False, once: bool = False
) -> Tensor:
    """(B, T, H, W, 3) uint8: the stored frames that view `view` of a bank is cut from.

    The bank goes round the stored temporal views: with 2 of them, views 0, 2, 4 are cut from the first.
    `pinned`, `once`: as for `FeatureSet.read`.
    """
    batch = torch.empty((len(positions), *shards.view.shape), dtype=torch.uint8, pin_memory=pinned)
    shards.frames(positions, view % shards.num_views, out=batch.numpy(), once=once)
    return batch


def cut_views(
    frames: Tensor,
    shards: ShardSet,
    positions: Positions,
    view: int,
    *,
    size: int,
    augment: AugmentConfig | None,
) -> Tensor:
    """(B, T, H, W, 3) uint8 -> (B, T, 3, size, size) float32: view `view` of the videos at `positions`.

    `augment`: of the bank, None for the one fixed view of evaluation.
    """
    if augment is None:
        return crop_batch(frames, size=size)
    seeds = [bank_seed(shards.paths[p], int(shards.rows[p]), view) for p in positions]
    labels = [shards.labels[p] for p in positions]
    return bank_views(frames, size=size, augment=augment, seeds=seeds, labels=labels)
