"""Augmentation of training views: flips by label, low light, mixup and the settings.

In a separate file because `test_transforms.py` covers crops and pixel changes only.
"""

import json

import pytest
import torch

from evclip_ray.config import ConfigError
from evclip_ray.data.transforms import AugmentConfig, cached_views, crop_batch, mix
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.tuning.search_space import read_space

PLAIN = {"flip": 0.0, "crop": "centre"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def frames():
    return torch.randint(0, 256, (3, 2, 32, 40, 3), generator=seeded(), dtype=torch.uint8)


def test_label_with_a_direction_is_never_flipped(frames):
    augment = AugmentConfig(crop="centre", flip=1.0)
    labels = ["Pushing something from left to right", "jump", "turn_Left"]
    plain = crop_batch(frames, size=28)
    views = crop_batch(frames, size=28, augment=augment, generator=seeded(), labels=labels)
    assert torch.equal(views[0], plain[0])
    assert torch.equal(views[1], plain[1].flip(-1))
    assert torch.equal(views[2], plain[2])
    assert torch.equal(cached_views(frames, size=28, augment=augment, seeds=[1, 2, 3], labels=labels), views)


def test_cached_views_need_one_seed_and_label_per_video(frames):
    for few in ({"seeds": [1, 2]}, {"seeds": [1, 2, 3], "labels": ["jump"]}):
        with pytest.raises(ValueError, match="zip"):
            cached_views(frames, size=28, augment=AugmentConfig(), **few)


def test_flip_except_matches_whole_words():
    assert AugmentConfig().may_flip("leftover food")
    assert not AugmentConfig(flip_except="clockwise, kitchen sink").may_flip("turning Clockwise")
    assert AugmentConfig(flip_except="").may_flip("left")


def test_flip_except_changes_no_other_draw(frames):
    augment = AugmentConfig(flip=0.5)
    views = crop_batch(frames, size=24, augment=augment, generator=seeded(4))
    excepted = crop_batch(frames, size=24, augment=augment, generator=seeded(4), labels=["left"] * 3)
    for one, other in zip(views, excepted, strict=True):
        assert torch.equal(one, other) or torch.equal(one.flip(-1), other)


def test_low_light_darkens_by_one_gamma_per_video(frames):
    augment = AugmentConfig(**PLAIN, low_light=1.0, low_light_gamma=3.0)
    plain = crop_batch(frames, size=28)
    views = crop_batch(frames, size=28, augment=augment, generator=seeded())
    inside = (plain > 0.05) & (plain < 0.95)
    for one, dark, valid in zip(plain, views, inside, strict=True):
        gamma = (dark.log() / one.log())[valid]
        assert gamma.min() >= 1 - 1e-4
        assert gamma.max() <= 3 + 1e-4
        assert gamma.max() - gamma.min() < 2e-3


def test_low_light_changes_only_its_share_of_the_videos():
    frames = torch.full((400, 1, 16, 16, 3), 128, dtype=torch.uint8)
    augment = AugmentConfig(**PLAIN, low_light=0.3)
    views = crop_batch(frames, size=14, augment=augment, generator=seeded())
    plain = crop_batch(frames, size=14)
    dark = (views < plain).flatten(1).all(1)
    assert dark.float().mean().item() == pytest.approx(0.3, abs=0.07)
    assert torch.equal(views[~dark], plain[~dark])


def test_gamma_below_one_is_refused():
    with pytest.raises(ConfigError, match=r"low_light_gamma: must be at least 1, got 0\.5"):
        AugmentConfig.load({"low_light_gamma": 0.5})


def test_every_augmentation_setting_can_be_searched(tmp_path):
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


def test_mixup_with_cached_views_is_refused():
    data = {"manifest": "a.csv", "bank": 2, "augment": {"mixup": 0.4}}
    with pytest.raises(ConfigError, match=r"augment.mixup \(0.4\) mixes pixels .* \(data.bank, 2\)"):
        ExperimentConfig.load({"data": data})


def test_mixup_overlays_each_video_with_its_partner():
    pixels = torch.rand(5, 2, 3, 4, 4)
    mixed = mix(pixels, alpha=0.8, generator=seeded())
    assert sorted(mixed.partners.tolist()) == list(range(5))
    assert 0 < mixed.weight < 1
    expected = mixed.weight * pixels + (1 - mixed.weight) * pixels[mixed.partners]
    assert torch.allclose(mixed.pixels, expected, atol=1e-6)


def test_mixup_loss_equals_that_of_the_soft_label():
    logits, labels = torch.randn(6, 4), torch.randint(0, 4, (6,))
    mixed = mix(torch.rand(6, 1, 3, 2, 2), alpha=1.0, generator=seeded(3))
    terms_of_labels, terms_of_partners = (
        {"ce": torch.nn.functional.cross_entropy(logits, one), "regulariser": torch.tensor(0.25)}
        for one in (labels, labels[mixed.partners])
    )
    soft = torch.nn.functional.one_hot(labels, 4).float()
    soft = mixed.weight * soft + (1 - mixed.weight) * soft[mixed.partners]
    terms = mixed.loss_terms(terms_of_labels, terms_of_partners)
    assert terms["ce"].item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, soft).item(), rel=1e-5
    )
    assert terms["regulariser"].item() == pytest.approx(0.25)


def test_mixup_weights_follow_beta_and_the_seed():
    pixels = torch.rand(3, 1, 3, 2, 2)
    weights = torch.tensor([mix(pixels, alpha=0.3, generator=seeded(seed)).weight for seed in range(500)])
    assert weights.mean().item() == pytest.approx(0.5, abs=0.05)
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert weights.var().item() == pytest.approx(1 / (4 * 1.6), rel=0.1)
    first, again = (mix(pixels, alpha=0.3, generator=seeded(7)) for _ in range(2))
    assert torch.equal(first.pixels, again.pixels)
