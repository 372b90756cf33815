import re

import pytest
import torch
from torch.nn import functional

from evclip_ray.config import ConfigError
from evclip_ray.data.transforms import AugmentConfig, cached_views, crop_batch, view_summary
from evclip_ray.data.video.view import ViewConfig

PLAIN = {"flip": 0.0, "crop": "centre"}


def ramp(batch=2, num_frames=3, height=32, width=40):
    """Return videos whose red is the column, green the row and blue the frame number."""
    frames = torch.zeros(batch, num_frames, height, width, 3, dtype=torch.uint8)
    frames[..., 0] = torch.arange(width, dtype=torch.uint8)
    frames[..., 1] = torch.arange(height, dtype=torch.uint8)[:, None]
    frames[..., 2] = torch.arange(num_frames, dtype=torch.uint8)[:, None, None]
    return frames


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_evaluation_crop_is_the_unchanged_centre():
    views = crop_batch(ramp(), size=28)
    assert views.shape == (2, 3, 3, 28, 28)
    assert views.dtype == torch.float32
    pixels = (views * 255).round()
    assert (pixels[0, 0, 0, 0] == torch.arange(6, 34)).all()
    assert (pixels[0, 0, 1, :, 0] == torch.arange(2, 30)).all()
    assert (pixels[0, :, 2, 0, 0] == torch.arange(3)).all()


def test_default_crop_is_224_of_256():
    frames = torch.randint(0, 256, (1, 1, 256, 256, 3), dtype=torch.uint8)
    expected = frames[:, :, 16:240, 16:240].permute(0, 1, 4, 2, 3) / 255
    assert torch.equal(crop_batch(frames, size=224), expected)


def test_position_moves_the_crop_along_the_longer_side():
    for position, left in ((0.0, 0), (0.5, 6), (1.0, 12)):
        corner = (crop_batch(ramp(), size=28, position=position)[0, 0, :2, 0, 0] * 255).round()
        assert corner.tolist() == [left, 2]
    high = ramp(height=40, width=32)
    corner = (crop_batch(high, size=28, position=1.0)[0, 0, :2, 0, 0] * 255).round()
    assert corner.tolist() == [2, 12]


def test_resized_crop_stays_in_range():
    frames = torch.randint(0, 256, (2, 2, 32, 32, 3), dtype=torch.uint8)
    for size in (14, 56):
        views = crop_batch(frames, size=size)
        assert views.shape[-2:] == (size, size)
        assert 0 <= views.min() <= views.max() <= 1
        middle = frames[0, :, 2:30, 2:30].permute(0, 3, 1, 2) / 255
        wanted = functional.interpolate(middle, size=(size, size), mode="bilinear", antialias=True)
        assert torch.allclose(views[0], wanted, atol=2e-5)


@pytest.mark.parametrize("crop", ["random_resized", "random"])
def test_each_video_has_one_crop_for_all_frames(crop):
    frames = ramp(batch=6)
    frames[..., 2] = 0
    views = crop_batch(frames, size=20, augment=AugmentConfig(crop=crop), generator=seeded())
    assert (views[:, 0] == views[:, 1]).all()
    assert len({tuple(view.flatten().tolist()) for view in views[:, 0]}) > 3


def test_random_crops_reach_exactly_the_corners():
    frames = ramp(batch=400, num_frames=1)
    views = crop_batch(frames, size=28, augment=AugmentConfig(crop="random", flip=0.0), generator=seeded())
    corners = (views[:, 0, :2, 0, 0] * 255).round()
    assert corners.amin(0).tolist() == [0, 0]
    assert corners.amax(0).tolist() == [40 - 28, 32 - 28]


def test_area_of_resized_crops_follows_the_scale():
    frames = ramp(batch=300, num_frames=1, height=64, width=64)
    augment = AugmentConfig(scale=(0.25, 1.0), flip=0.0)
    views = crop_batch(frames, size=64, augment=augment, generator=seeded())
    sides = 255 * (views[:, 0, 0, 0, -1] - views[:, 0, 0, 0, 0]) + 1
    assert 30 <= sides.min() <= 36
    assert sides.max() > 60


def test_flip_mirrors_every_frame():
    frames = ramp()
    always = AugmentConfig(crop="centre", flip=1.0)
    flipped = crop_batch(frames, size=28, augment=always, generator=seeded())
    assert torch.equal(flipped, crop_batch(frames, size=28).flip(-1))


def test_disabled_augmentation_is_the_evaluation_view():
    frames = torch.randint(0, 256, (2, 2, 32, 40, 3), dtype=torch.uint8)
    off = crop_batch(frames, size=24, augment=AugmentConfig(**PLAIN), generator=seeded())
    assert torch.equal(off, crop_batch(frames, size=24))


def test_brightness_is_one_factor_per_video():
    frames = torch.full((4, 2, 32, 32, 3), 100, dtype=torch.uint8)
    augment = AugmentConfig(**PLAIN, brightness=0.4)
    views = crop_batch(frames, size=28, augment=augment, generator=seeded())
    factors = views.flatten(1) / (100 / 255)
    assert torch.allclose(factors, factors[:, :1].expand_as(factors))
    assert 0.6 <= factors.min() < factors.max() <= 1.4


def test_contrast_keeps_the_mean_grey():
    frames = torch.randint(100, 150, (3, 2, 32, 32, 3), dtype=torch.uint8)
    augment = AugmentConfig(**PLAIN, contrast=0.5)
    plain = crop_batch(frames, size=28)
    views = crop_batch(frames, size=28, augment=augment, generator=seeded())
    assert torch.allclose(views.flatten(1).mean(1), plain.flatten(1).mean(1), atol=1e-4)
    assert not torch.allclose(views.flatten(1).std(1), plain.flatten(1).std(1), rtol=0.02)


def test_seed_determines_the_augmentation():
    frames = torch.randint(0, 256, (4, 2, 32, 32, 3), dtype=torch.uint8)
    augment = AugmentConfig(brightness=0.2, contrast=0.2)
    first, again, other = (
        crop_batch(frames, size=24, augment=augment, generator=seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.gpu
def test_seed_gives_the_same_augmentation_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU is visible")
    frames = torch.randint(0, 256, (4, 2, 64, 64, 3), dtype=torch.uint8)
    augment = AugmentConfig(brightness=0.2, contrast=0.2)
    here = crop_batch(frames, size=48, augment=augment, generator=seeded())
    there = crop_batch(frames.cuda(), size=48, augment=augment, generator=seeded())
    assert torch.allclose(here, there.cpu(), atol=1e-4)


def test_wrong_frames_and_missing_generator_are_refused():
    with pytest.raises(ValueError, match=r"\(B, T, H, W, 3\) uint8, got \(2, 3, 32, 40, 3\) torch.float32"):
        crop_batch(ramp().float(), size=28)
    with pytest.raises(ValueError, match="CPU generator"):
        crop_batch(ramp(), size=28, augment=AugmentConfig())


def test_invalid_scale_is_refused():
    with pytest.raises(ConfigError, match="0 < low <= high <= 1"):
        AugmentConfig.load({"scale": [0.8, 0.2]})


@pytest.mark.parametrize(
    "augment", [None, AugmentConfig(), AugmentConfig(crop="random"), AugmentConfig(crop="centre")]
)
@pytest.mark.parametrize("size", [28, 20, 40])
def test_list_of_videos_has_the_views_of_one_tensor(augment, size):
    frames = torch.randint(0, 256, (3, 2, 32, 40, 3), dtype=torch.uint8)
    whole = crop_batch(frames, size=size, augment=augment, generator=seeded())
    assert (crop_batch(list(frames), size=size, augment=augment, generator=seeded()) == whole).all()
    if augment is not None:
        each = cached_views(list(frames), size=size, augment=augment, seeds=[1, 2, 3])
        assert (each == cached_views(frames, size=size, augment=augment, seeds=[1, 2, 3])).all()


def test_videos_of_several_sizes_are_cropped_at_their_middle():
    wide, high = ramp(1, height=32, width=60)[0], ramp(1, height=60, width=32)[0]
    views = crop_batch([wide, high], size=28)
    assert views.shape == (2, 3, 3, 28, 28)
    assert (views[:1] == crop_batch(wide[None], size=28)).all()
    assert (views[1:] == crop_batch(high[None], size=28)).all()


def test_default_augmentation_sees_the_whole_width():
    frames = torch.arange(57, dtype=torch.uint8).view(1, 1, 1, 57, 1).expand(1, 1, 32, 57, 3)
    batch = frames.expand(400, 1, 32, 57, 3)
    views = crop_batch(batch, size=32, augment=AugmentConfig(), generator=seeded())
    assert (views * 255).min() < 1
    assert (views * 255).max() > 55
    cached = cached_views(batch, size=32, augment=AugmentConfig(), seeds=range(400))
    assert (cached * 255).min() < 1
    assert (cached * 255).max() > 55


def test_frames_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"frames must be \(T, H, W, 3\) uint8, got \(1, 3, 32, 40, 3\)"):
        crop_batch([ramp(1)], size=28)


@pytest.mark.parametrize(
    ("view", "line"),
    [
        ({}, "short side 256, whole pictures up to 3:1; .*: 57 % of a 4:3 picture, 43 % of 16:9"),
        (
            {"fit": "crop"},
            "256 x 256 pixels, middle of each picture; .*: 57 % of a 4:3 picture, 43 % of 16:9",
        ),
        ({"fit": "stretch", "width": 340}, "256 x 340 pixels, stretched pictures; .*: 58 % of a picture"),
    ],
)
def test_view_summary_names_size_and_share(view, line):
    assert re.fullmatch(line, view_summary(ViewConfig(**view)))
