"""Reading and cropping of stored frames whose videos differ in size."""

from types import SimpleNamespace

import numpy as np
import torch

from evclip_ray.data.transfers import read_frames
from evclip_ray.data.transforms import AugmentConfig, crop_batch, to_device
from evclip_ray.features.view_cache import crop_views

CPU = torch.device("cpu")


def shards_of(*sizes):
    """Return stand-ins for shards with one view of two frames of each size."""
    videos = [
        np.random.default_rng(number).integers(0, 256, (2, *size, 3), np.uint8)
        for number, size in enumerate(sizes)
    ]

    def frames(positions, view, *, out, release):
        assert (view, release) == (0, False)
        copied = [videos[position] for position in positions]
        out[:] = np.concatenate([video.ravel() for video in copied])
        return np.stack(copied) if len({video.shape for video in copied}) == 1 else copied

    return SimpleNamespace(
        num_views=1,
        videos=videos,
        frames=frames,
        shapes=lambda positions: [videos[position].shape for position in positions],
        paths=[f"{number}.mp4" for number in range(len(videos))],
        rows=np.arange(len(videos)),
        labels=["walk"] * len(videos),
    )


def test_frames_of_several_sizes_share_one_block_of_memory():
    shards = shards_of((32, 40), (48, 32), (32, 40))
    frames = read_frames(shards, [1, 0], 3)
    assert [tuple(video.shape) for video in frames] == [(2, 48, 32, 3), (2, 32, 40, 3)]
    assert (frames[1].numpy() == shards.videos[0]).all()
    assert frames[0].untyped_storage().data_ptr() == frames[1].untyped_storage().data_ptr()
    whole = read_frames(shards, [0, 2], 0)
    assert whole.shape == (2, 2, 32, 40, 3)
    assert (whole[1].numpy() == shards.videos[2]).all()


def test_cached_view_does_not_depend_on_the_sizes_of_its_batch():
    shards = shards_of((32, 40), (48, 32), (32, 40))
    for augment in (None, AugmentConfig()):
        together = crop_views(
            to_device(read_frames(shards, [0, 1, 2], 0), CPU), shards, [0, 1, 2], 0, size=28, augment=augment
        )
        for position in range(3):
            alone = crop_views(
                read_frames(shards, [position], 0), shards, [position], 0, size=28, augment=augment
            )
            assert (together[position] == alone[0]).all()
    assert (together != crop_batch(read_frames(shards, [0, 1, 2], 0), size=28)).any()
