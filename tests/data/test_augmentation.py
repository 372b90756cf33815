"""What training does to a view beyond crops and colours: flips by label, low light, and its settings."""

import json

import pytest
import torch

from evclip_ray.config import ConfigError
from evclip_ray.data.transforms import AugmentConfig, cached_views, crop_batch
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.tuning.search_space import read_space

PLAIN = {"flip": 0.0, "crop": "centre"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def frames():
    return torch.randint(0, 256, (3, 2, 32, 40, 3), generator=seeded(), dtype=torch.uint8)


def test_a_label_with_a_direction_is_never_flipped(frames):
    augment = AugmentConfig(crop="centre", flip=1.0)
    labels = ["Pushing something from left to right", "jump", "turn_Left"]
    plain = crop_batch(frames, size=28)
    views = crop_batch(frames, size=28, augment=augment, generator=seeded(), labels=labels)
    assert torch.equal(views[0], plain[0])
    assert torch.equal(views[1], plain[1].flip(-1))
    assert torch.equal(views[2], plain[2])
    assert torch.equal(cached_views(frames, size=28, augment=augment, seeds=[1, 2, 3], labels=labels), views)


def test_a_bank_needs_a_seed_and_a_label_for_every_video(frames):
    for few in ({"seeds": [1, 2]}, {"seeds": [1, 2, 3], "labels": ["jump"]}):
        with pytest.raises(ValueError, match="zip"):
            cached_views(frames, size=28, augment=AugmentConfig(), **few)


def test_the_words_of_a_data_set_are_its_own_and_whole():
    assert AugmentConfig().may_flip("leftover food")
    assert not AugmentConfig(flip_except="clockwise, kitchen sink").may_flip("turning Clockwise")
    assert AugmentConfig(flip_except="").may_flip("left")


def test_excepting_labels_changes_no_other_draw(frames):
    augment = AugmentConfig(flip=0.5)
    views = crop_batch(frames, size=24, augment=augment, generator=seeded(4))
    excepted = crop_batch(frames, size=24, augment=augment, generator=seeded(4), labels=["left"] * 3)
    for one, other in zip(views, excepted, strict=True):
        assert torch.equal(one, other) or torch.equal(one.flip(-1), other)


def test_low_light_darkens_by_a_gamma_of_each_video(frames):
    augment = AugmentConfig(**PLAIN, low_light=1.0, low_light_gamma=3.0)
    plain = crop_batch(frames, size=28)
    views = crop_batch(frames, size=28, augment=augment, generator=seeded())
    inside = (plain > 0.05) & (plain < 0.95)
    for one, dark, valid in zip(plain, views, inside, strict=True):
        gamma = (dark.log() / one.log())[valid]
        assert gamma.min() >= 1 - 1e-4
        assert gamma.max() <= 3 + 1e-4
        assert gamma.max() - gamma.min() < 2e-3


def test_low_light_reaches_its_share_of_the_videos_and_leaves_the_others_alone():
    frames = torch.full((400, 1, 16, 16, 3), 128, dtype=torch.uint8)
    augment = AugmentConfig(**PLAIN, low_light=0.3)
    views = crop_batch(frames, size=14, augment=augment, generator=seeded())
    plain = crop_batch(frames, size=14)
    dark = (views < plain).flatten(1).all(1)
    assert dark.float().mean().item() == pytest.approx(0.3, abs=0.07)
    assert torch.equal(views[~dark], plain[~dark])


def test_a_gamma_that_would_brighten_is_refused():
    with pytest.raises(ConfigError, match=r"low_light_gamma: .* greater than or equal to 1, got 0.5"):
        AugmentConfig.load({"low_light_gamma": 0.5})


def test_every_switch_can_be_searched(tmp_path):
    searched = {
        "data.augment.flip_except": {"choice": ["", "left, right"]},
        "data.augment.low_light": {"choice": [0.0, 0.25, 0.5]},
        "data.augment.low_light_gamma": {"choice": [2.0, 3.5]},
        "data.augment.mixup": {"choice": [0.0, 0.4]},
        "data.augment.flip": {"choice": [0.0, 0.5]},
        "data.augment.crop": {"choice": ["random", "random_resized"]},
    }
    path = tmp_path / "space.yaml"
    path.write_text(
        json.dumps({"fixed": {"data.manifest": "a.csv"}, "search": searched, "study": {"trials": 2}})
    )
    assert {axis.path for axis in read_space(path, {}, study={}).search} == set(searched)


def test_mixup_and_a_bank_are_refused_together():
    data = {"manifest": "a.csv", "bank": 2, "augment": {"mixup": 0.4}}
    with pytest.raises(ConfigError, match=r"augment.mixup \(0.4\) mixes pixels .* \(data.bank, 2\)"):
        ExperimentConfig.load({"data": data})
