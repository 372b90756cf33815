import pytest
import torch
from torch import Tensor

from evclip_ray.models.batch import Frozen, VideoBatch
from evclip_ray.models.methods.zero_shot import ZeroShot, ZeroShotConfig

NAMES = ["archery", "bowling", "diving"]


@pytest.fixture
def method(frozen: Frozen) -> ZeroShot:
    return ZeroShotConfig().build(Frozen(frozen.clip), class_names=NAMES, num_frames=8, image_size=64)


def test_logits_are_cosines_of_the_mean_frame(method: ZeroShot, frozen: Frozen, pixels: Tensor) -> None:
    clip = frozen.clip
    mean = clip.encode_frames(clip.prepare(pixels)).mean(1)
    text = clip.encode_text([f"A video of {name}." for name in NAMES])
    expected = 100 * torch.nn.functional.cosine_similarity(mean[:, None], text[None], dim=-1)
    torch.testing.assert_close(method(VideoBatch(pixels)).logits, expected, atol=1e-4, rtol=1e-5)


def test_cached_frame_features_give_the_same_logits(method: ZeroShot, batch: VideoBatch) -> None:
    live = method(batch)
    cached = method(VideoBatch(None, frame_features=live.frame_features))
    assert torch.equal(live.logits, cached.logits)


def test_nothing_is_trained_or_saved(method: ZeroShot, batch: VideoBatch) -> None:
    assert not ZeroShotConfig().trains
    assert not ZeroShotConfig().needs_video_encoder
    assert method.num_trainable() == 0
    assert not method.state_dict()
    assert method.losses(method(batch), torch.tensor([0, 1, 2])) == {}


def test_the_colours_of_the_input_are_a_choice(frozen: Frozen, batch: VideoBatch) -> None:
    logits = [
        ZeroShotConfig(normalization=colours)
        .build(frozen, class_names=NAMES, num_frames=8, image_size=64)(batch)
        .logits
        for colours in ("own", "imagenet")
    ]
    assert not torch.allclose(*logits)


def test_a_batch_without_pixels_or_features_is_refused(method: ZeroShot) -> None:
    with pytest.raises(ValueError, match="must hold pixels"):
        method(VideoBatch(None))
