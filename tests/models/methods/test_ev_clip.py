import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from evclip_ray.config import ConfigError
from evclip_ray.models.batch import Frozen, VideoBatch
from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.methods.base import MethodConfig
from evclip_ray.models.methods.ev_clip import EVCLIP, EVCLIPConfig, consistency_loss
from evclip_ray.models.video_encoder import FrozenVideoEncoder

NAMES = ["archery", "bowling", "diving", "fencing"]
PROMPTS = ["both", "mask", "context"]
LABELS = torch.tensor([0, 1, 2])


def build(frozen: Frozen, **settings: Any) -> EVCLIP:
    torch.manual_seed(0)
    config = EVCLIPConfig.load(settings)
    return config.build(frozen, class_names=NAMES, num_frames=8, image_size=64)


def loss_of(method: EVCLIP, batch: VideoBatch) -> Tensor:
    return torch.stack(list(method.losses(method(batch), LABELS).values())).sum()


@pytest.mark.parametrize(
    ("prompts", "encoder_dim", "embed_dim", "num_frames", "expected"),
    [
        ("both", 768, 512, 8, 6_055_086),
        ("both", 768, 512, 16, 6_055_138),
        ("mask", 768, 512, 8, 5_660_845),
        ("context", 768, 512, 8, 394_241),
        ("both", 768, 768, 8, 6_252_206),
        ("both", 768, 1024, 16, 6_449_378),
        ("both", 1024, 512, 8, 10_545_344),
        ("both", 1024, 768, 16, 10_808_052),
        ("both", 1024, 1024, 8, 11_070_656),
    ],
)
def test_defaults_have_the_published_size(
    prompts: str, encoder_dim: int, embed_dim: int, num_frames: int, expected: int
) -> None:
    text = torch.zeros(5, embed_dim, device="meta")
    clip = SimpleNamespace(embed_dim=embed_dim, encode_text=lambda texts: text)
    frozen = Frozen(clip, SimpleNamespace(dim=encoder_dim, image_size=224, stride=32))  # type: ignore[arg-type]
    config = EVCLIPConfig.load({"prompts": prompts})
    with torch.device("meta"):
        method = config.build(frozen, class_names=NAMES, num_frames=num_frames, image_size=224)
    assert method.num_trainable() == expected


@pytest.mark.parametrize("prompts", PROMPTS)
def test_only_trained_tensors_get_gradients(frozen: Frozen, batch: VideoBatch, prompts: str) -> None:
    method = build(frozen, prompts=prompts)
    before = {key: value.clone() for key, value in frozen.clip.state_dict().items()}
    method.train()
    loss_of(method, batch).backward()
    torch.optim.AdamW(method.parameters(), lr=0.1).step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.parameters())
    assert all(torch.equal(before[key], value) for key, value in frozen.clip.state_dict().items())
    assert not any(module.training for module in frozen.clip.modules())
    assert not any(module.training for module in frozen.video_encoder.modules())


def test_mask_learns_through_the_clip_tower(frozen: Frozen, batch: VideoBatch) -> None:
    method = build(frozen, prompts="mask", consistency_weight=0)
    output = method(batch)
    assert method.losses(output, LABELS).keys() == {"cross_entropy"}
    output.mask.retain_grad()
    loss_of_output = method.losses(output, LABELS)["cross_entropy"]
    loss_of_output.backward()
    assert output.mask.grad.abs().sum() > 0


@pytest.mark.parametrize("prompts", PROMPTS)
def test_state_dict_has_trained_tensors_only(frozen: Frozen, prompts: str) -> None:
    method = build(frozen, prompts=prompts)
    assert method.state_dict().keys() == {name for name, _ in method.named_parameters()}
    generators = {"both": ("mask_generator", "context_generator")}.get(prompts, (f"{prompts}_generator",))
    assert {key.split(".")[0] for key in method.state_dict()} == set(generators)


@pytest.mark.parametrize("prompts", PROMPTS)
def test_state_dict_restores_logits_exactly(frozen: Frozen, batch: VideoBatch, prompts: str) -> None:
    trained, fresh = build(frozen, prompts=prompts), build(frozen, prompts=prompts)
    loss_of(trained, batch).backward()
    torch.optim.SGD(trained.parameters(), lr=0.1).step()
    assert not torch.equal(trained(batch).logits, fresh(batch).logits)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(trained(batch).logits, fresh(batch).logits)


def test_each_video_keeps_its_own_logits_and_mask(frozen: Frozen, pixels: Tensor) -> None:
    method = build(frozen)
    order = torch.tensor([2, 0, 1])
    output, permuted = method(VideoBatch(pixels)), method(VideoBatch(pixels[order]))
    torch.testing.assert_close(permuted.logits, output.logits[order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(permuted.mask, output.mask[order])


@pytest.mark.parametrize("prompts", PROMPTS)
def test_declared_caches_do_not_change_logits(frozen: Frozen, pixels: Tensor, prompts: str) -> None:
    method = build(frozen, prompts=prompts)
    live = method(VideoBatch(pixels))
    encoder, clip, caches = frozen.video_encoder, frozen.clip, EVCLIPConfig(prompts=prompts).caches
    cached: dict[str, Tensor] = {}
    if "video_map" in caches:
        cached["video_map"] = encoder(encoder.prepare(pixels))
    if "frame_features" in caches:
        cached["frame_features"] = clip.encode_frames(clip.prepare(pixels))
    kept = None if "frame_features" in cached else pixels
    assert torch.equal(method(VideoBatch(kept, **cached)).logits, live.logits)


def test_frame_features_are_cacheable_without_mask_only() -> None:
    assert "frame_features" in EVCLIPConfig(prompts="context").caches
    assert "frame_features" not in EVCLIPConfig(prompts="both").caches
    assert "frame_features" not in EVCLIPConfig(prompts="mask").caches


def test_mask_does_not_read_cached_frame_features(frozen: Frozen, pixels: Tensor) -> None:
    method = build(frozen, prompts="mask")
    wrong = VideoBatch(pixels, frame_features=torch.zeros(3, 8, 64))
    assert torch.equal(method(wrong).logits, method(VideoBatch(pixels)).logits)


@pytest.mark.parametrize("prompts", PROMPTS)
def test_batch_without_inputs_is_refused(frozen: Frozen, prompts: str) -> None:
    method = build(frozen, prompts=prompts)
    with pytest.raises(ValueError, match="needs pixels or a cached video map"):
        method(VideoBatch(None))
    with pytest.raises(ValueError, match="must hold pixels"):
        method(VideoBatch(None, video_map=torch.zeros(3, 128, 4, 2, 2)))


def test_output_has_mask_context_and_features(frozen: Frozen, batch: VideoBatch) -> None:
    output = build(frozen, context={"tokens": 2})(batch)
    assert output.mask.shape == (3, 64, 64)
    assert output.context.shape == (3, 2, 64)
    assert output.frame_features.shape == (3, 8, 64)
    tokens = torch.cat([output.context, output.frame_features], 1)
    expected = torch.nn.functional.normalize(tokens.mean(1), dim=-1)
    torch.testing.assert_close(output.video_features, expected)
    torch.testing.assert_close(output.logits, 100 * expected @ build(frozen).text_features.T)


def test_open_mask_is_the_one_that_multiplies_pixels(frozen: Frozen, batch: VideoBatch) -> None:
    method = build(frozen, prompts="mask", mask={"start": "open"})
    output = method(batch)
    assert output.mask.min() == 0.5
    images = frozen.clip.prepare(batch.pixels)
    expected = frozen.clip.encode_frames(images * output.mask[:, None, None])
    torch.testing.assert_close(output.frame_features, expected)
    loss_of(method, batch).backward()
    assert method.mask_generator.strength_logit.grad.abs() > 0


def test_scalars_have_the_strength_of_an_open_mask(frozen: Frozen) -> None:
    names = {"mask_generator.sharpness": 1.0, "context_generator.scale": pytest.approx(0.001)}
    assert build(frozen).scalars() == names
    opened = build(frozen, mask={"start": "open"}).scalars()
    assert opened == {**names, "mask_generator.strength": 0.5}


def test_published_start_is_left_out_of_dumps() -> None:
    assert "start" not in EVCLIPConfig().model_dump(mode="json")["mask"]
    opened = EVCLIPConfig.load({"mask": {"start": "open"}})
    assert EVCLIPConfig.load(opened.model_dump(mode="json")) == opened
    with pytest.raises(ConfigError, match=r"mask\.start.*'published' or 'open', got 'opened'"):
        EVCLIPConfig.load({"mask": {"start": "opened"}})


def test_zero_mask_gives_the_mean_colour(frozen: Frozen, batch: VideoBatch) -> None:
    method = build(frozen, prompts="mask")
    method.mask_generator.head[2].weight.data.zero_()
    grey = torch.zeros(1, 1, 3, 64, 64)
    expected = frozen.clip.encode_frames(grey).expand(3, 8, -1)
    torch.testing.assert_close(method(batch).frame_features, expected)


def test_zero_context_gives_zero_shot_logits(frozen: Frozen, batch: VideoBatch) -> None:
    method = build(frozen, prompts="context", context={"scale_init": 0})
    zero_shot = MethodConfig.resolve({"name": "zero_shot"}).load({"name": "zero_shot"})
    reference = zero_shot.build(frozen, class_names=NAMES, num_frames=8, image_size=64)
    torch.testing.assert_close(method(batch).logits, reference(batch).logits, atol=1e-4, rtol=1e-5)


def test_mask_is_resized_to_clip(frozen: Frozen, pixels: Tensor) -> None:
    encoder = FrozenVideoEncoder(frozen.video_encoder.network, name="wide", image_size=96, weights="random")
    method = build(Frozen(frozen.clip, encoder))
    output = method(VideoBatch(pixels))
    large = method.mask_generator(encoder(encoder.prepare(pixels)))
    assert large.shape == (3, 96, 96)
    assert output.mask.shape == (3, 64, 64)
    torch.testing.assert_close(output.mask.mean((1, 2)), large.mean((1, 2)), atol=0.01, rtol=0)


def test_normalization_changes_clip_input_only(frozen: Frozen, batch: VideoBatch) -> None:
    own, imagenet = (build(frozen, normalization=colours)(batch) for colours in ("own", "imagenet"))
    assert torch.equal(own.mask, imagenet.mask)
    assert not torch.allclose(own.logits, imagenet.logits)


@pytest.mark.parametrize("prompts", PROMPTS)
def test_autocast_is_close_to_float32(frozen: Frozen, batch: VideoBatch, prompts: str) -> None:
    method = build(frozen, prompts=prompts)
    gradients = []
    for enabled in (False, True):
        method.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = method(batch)
            sum(method.losses(output, LABELS).values()).backward()
        assert output.logits.dtype == torch.float32
        gradients.append((output.logits.detach(), torch.cat([p.grad.flatten() for p in method.parameters()])))
    assert (gradients[0][0] - gradients[1][0]).abs().max() < 0.3
    assert torch.nn.functional.cosine_similarity(gradients[0][1], gradients[1][1], dim=0) > 0.97


def test_equal_frames_have_no_consistency_loss() -> None:
    assert consistency_loss(torch.randn(4, 1, 32).expand(4, 8, 32)).item() == pytest.approx(0, abs=1e-6)


def test_consistency_loss_of_orthogonal_frames() -> None:
    frames = torch.eye(8).expand(3, 8, 8)
    assert consistency_loss(frames).item() == pytest.approx(7 / 8 * math.log(2), abs=1e-6)
    assert consistency_loss(5 * frames).item() == pytest.approx(0.6065, abs=1e-4)


def test_consistency_averages_cosines_over_the_batch() -> None:
    agreeing, opposed = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    both = consistency_loss(torch.stack([agreeing, opposed]))
    # Of four pairs, two are a frame with itself (cosine 1) and two have mean cosine 0.
    assert both.item() == pytest.approx(math.log(2) / 2)
    assert consistency_loss(opposed[None]).isfinite()


def test_context_alone_has_no_consistency_term(frozen: Frozen, batch: VideoBatch) -> None:
    method = build(frozen, prompts="context")
    assert method.losses(method(batch), LABELS).keys() == {"cross_entropy"}
    both = build(frozen, consistency_weight=0.5)
    output = both(batch)
    terms = both.losses(output, LABELS)
    torch.testing.assert_close(terms["consistency"], 0.5 * consistency_loss(output.frame_features))


def test_class_text_is_encoded_once(
    frozen: Frozen, batch: VideoBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = build(frozen)
    monkeypatch.setattr(FrozenCLIP, "encode_text_raw", lambda *_: pytest.fail("encoded again"))
    assert method(batch).logits.shape == (3, len(NAMES))


def test_long_class_name_is_refused(frozen: Frozen) -> None:
    with pytest.raises(ValueError, match=r"the 77 tokens of debug, the first: 'A video of very very"):
        EVCLIPConfig().build(frozen, class_names=["very " * 80, "x"], num_frames=8, image_size=64)


def test_equal_class_names_are_refused_at_build(frozen: Frozen) -> None:
    with pytest.raises(ValueError, match="given more than once: 'dive'"):
        EVCLIPConfig().build(frozen, class_names=["dive", "dive"], num_frames=8, image_size=64)


def test_odd_number_of_frames_is_refused_at_build(frozen: Frozen) -> None:
    with pytest.raises(ValueError, match="must be even, got 7"):
        EVCLIPConfig().build(frozen, class_names=NAMES, num_frames=7, image_size=64)


def test_other_number_of_frames_is_refused(frozen: Frozen, pixels: Tensor) -> None:
    with pytest.raises(ValueError, match="number of frames and image size are fixed at build"):
        build(frozen)(VideoBatch(pixels[:, :4]))


def test_missing_video_encoder_is_refused_at_build(frozen: Frozen) -> None:
    with pytest.raises(ValueError, match="needs a video encoder, got none"):
        build(Frozen(frozen.clip))


def test_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"mask\.dept: unknown setting; did you mean 'mask\.depth'"):
        EVCLIPConfig.load({}, {"mask.dept": 3})
    with pytest.raises(ConfigError, match="prompts"):
        EVCLIPConfig.load({"prompts": "masks"})
