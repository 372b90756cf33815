"""Generators of EV-CLIP: mask_prompt and context_prompt, whose sizes are published together."""

import math

import pytest
import torch
import torch.nn.functional as F

from evclip_ray.models.layers.context_prompt import ContextGenerator
from evclip_ray.models.layers.mask_prompt import EPS, MaskGenerator, rescaled

MASK = {(768, 8): 5_660_845, (768, 16): 5_660_897, (1024, 8): 10_020_031, (1024, 16): 10_020_083}
CONTEXT = {
    (768, 512): 394_241,
    (768, 768): 591_361,
    (768, 1024): 788_481,
    (1024, 512): 525_313,
    (1024, 768): 787_969,
    (1024, 1024): 1_050_625,
}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("dim", "num_frames"), MASK)
def test_mask_generator_has_the_published_size(dim: int, num_frames: int) -> None:
    with torch.device("meta"):
        assert count(MaskGenerator(dim, num_frames=num_frames)) == MASK[dim, num_frames]


@pytest.mark.parametrize(("dim", "embed_dim"), CONTEXT)
def test_context_generator_has_the_published_size(dim: int, embed_dim: int) -> None:
    with torch.device("meta"):
        assert count(ContextGenerator(dim, embed_dim)) == CONTEXT[dim, embed_dim]


def test_parts_of_the_mask_generator_have_published_sizes() -> None:
    with torch.device("meta"):
        generator = MaskGenerator(768)
    sizes = {name: count(part) for name, part in generator.named_children()}
    assert sizes == {
        "squeeze": 75_284,
        "expand1": 1_180_416,
        "blocks1": 3_551_632,
        "expand2": 590_016,
        "blocks2": 226_384,
        "expand3": 36_912,
        "head": 200,
    }


def test_state_dict_has_trained_tensors_only() -> None:
    generator = MaskGenerator(128, map_size=(2, 2))
    assert generator.state_dict().keys() == dict(generator.named_parameters()).keys()


@pytest.mark.parametrize(("map_size", "num_frames"), [((7, 7), 8), ((2, 2), 16), ((3, 3), 2)])
def test_mask_has_32_times_the_side_of_the_map(map_size: tuple[int, int], num_frames: int) -> None:
    generator = MaskGenerator(128, map_size=map_size, num_frames=num_frames)
    mask = generator(torch.randn(2, 128, num_frames // 2, *map_size))
    assert mask.shape == (2, 32 * map_size[0], 32 * map_size[1])
    assert mask.amin((1, 2)).tolist() == [0, 0]
    assert mask.max() <= 1


def test_mask_of_a_map_with_stride_16_has_16_times_its_side() -> None:
    generator = MaskGenerator(96, map_size=(6, 6), stride=16)
    assert generator(torch.randn(2, 96, 4, 6, 6)).shape == (2, 96, 96)


@pytest.mark.parametrize(("dim", "heads", "width"), [(768, 8, 384), (96, 8, 64), (96, 4, 48)])
def test_default_width_is_one_that_the_heads_divide(dim: int, heads: int, width: int) -> None:
    assert MaskGenerator(dim, heads=heads).expand1.norm.normalized_shape == (width,)


def test_rescaled_scores_are_exponential_up_to_eps() -> None:
    scores = torch.randn(2, 64, 64, dtype=torch.float64)
    grown = scores.exp().flatten(1)
    low, high = grown.amin(1, keepdim=True), grown.amax(1, keepdim=True)
    expected = ((grown - low) / (high - low)).view_as(scores)
    torch.testing.assert_close(rescaled(scores), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("spread", "highest"), [(1e-4, 0.17), (1e-3, 0.67), (1e-2, 0.95), (0.1, 0.995)])
def test_mask_of_similar_scores_stays_low(spread: float, highest: float) -> None:
    scores = torch.linspace(0, spread, 224 * 224).view(1, 224, 224)
    assert rescaled(scores).max().item() == pytest.approx(highest, abs=0.005)
    assert pytest.approx(1e-8) == EPS


def test_equal_scores_give_zero_without_nan() -> None:
    scores = torch.zeros(1, 8, 8, requires_grad=True)
    mask = rescaled(scores)
    mask.sum().backward()
    assert mask.max() == 0
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_mask_under_autocast_is_float32_and_close() -> None:
    torch.manual_seed(0)
    generator = MaskGenerator(128, map_size=(7, 7))
    video_map = torch.randn(2, 128, 4, 7, 7)
    exact = generator(video_map)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = generator(video_map)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().mean() < 0.02
    assert F.cosine_similarity(rounded.flatten(), exact.flatten(), dim=0) > 0.995


def generators() -> tuple[MaskGenerator, MaskGenerator, torch.Tensor]:
    """Return a published and an open generator with equal weights, and a video map."""
    pair = []
    for start in ("published", "open"):
        torch.manual_seed(0)
        pair.append(MaskGenerator(128, map_size=(2, 2), start=start))
    return pair[0], pair[1], torch.randn(2, 128, 4, 2, 2)


def test_open_start_halves_the_published_mask() -> None:
    published, opened, video_map = generators()
    assert published.strength is None
    torch.testing.assert_close(opened(video_map), 0.5 + 0.5 * published(video_map))
    assert count(opened) == count(published) + 1


def test_open_mask_with_full_strength_is_published() -> None:
    published, opened, video_map = generators()
    opened.strength_logit.data.fill_(100.0)
    torch.testing.assert_close(opened(video_map), published(video_map))
    opened.strength_logit.data.fill_(-100.0)
    assert opened(video_map).eq(1).all()


def test_constant_extremes_change_gradients_only() -> None:
    scores = torch.randn(1, 8, 8, dtype=torch.float64, requires_grad=True)
    masks = [rescaled(scores, constant_extremes=constant) for constant in (False, True)]
    assert torch.equal(*masks)
    # The lowest and the highest value of a mask are 0 and 1 whatever the scores are.
    extremes = [torch.stack([mask.min(), mask.max()]).sum() for mask in masks]
    gradients = [torch.autograd.grad(value, scores)[0] for value in extremes]
    torch.testing.assert_close(gradients[0], torch.zeros_like(scores), atol=1e-5, rtol=0)
    assert gradients[1].abs().max() > 0.1


def test_published_start_has_no_tensor_of_the_open_one() -> None:
    published, opened, _ = generators()
    assert opened.state_dict().keys() - published.state_dict().keys() == {"strength_logit"}


def test_open_mask_keeps_the_order_of_pixels() -> None:
    published, opened, video_map = generators()
    ranks = [generator(video_map).flatten(1).argsort(1)[:, -1] for generator in (published, opened)]
    assert torch.equal(*ranks)


def test_sizes_are_settings() -> None:
    small = MaskGenerator(128, map_size=(2, 2), width=32, depth=1, heads=2, window=4, mlp_ratio=1.0)
    deep = MaskGenerator(128, map_size=(2, 2), width=32, depth=3, heads=2, window=4, mlp_ratio=1.0)
    assert len(small.blocks1) == 1
    assert len(deep.blocks2) == 3
    assert small(torch.randn(1, 128, 4, 2, 2)).shape == (1, 64, 64)
    none = MaskGenerator(128, map_size=(2, 2), depth=0)
    assert none(torch.randn(1, 128, 4, 2, 2)).shape == (1, 64, 64)


def test_blocks_are_initialised_as_published() -> None:
    torch.manual_seed(0)
    layer = MaskGenerator(128, map_size=(2, 2)).blocks1[0].mlp[0]
    bound = 1 / math.sqrt(layer.in_features)
    assert layer.weight.abs().max() <= bound
    assert layer.bias.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_map_of_another_length_is_refused() -> None:
    generator = MaskGenerator(128, map_size=(2, 2), num_frames=8)
    with pytest.raises(ValueError, match=r"built for maps .* = \(128, 4, 2, 2\), got \(128, 8, 2, 2\)"):
        generator(torch.randn(1, 128, 8, 2, 2))


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"num_frames": 7}, "must be even, got 7"),
        ({"width": 40}, "multiple of 16"),
        ({"width": 64, "heads": 5}, "got width 64, heads 5"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(sizes: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        MaskGenerator(128, **sizes)


def test_context_starts_small_with_the_given_tokens() -> None:
    context = ContextGenerator(128, 64, tokens=3, width=16)(torch.randn(2, 128, 4, 2, 2))
    assert context.shape == (2, 3, 64)
    assert context.abs().mean().item() == pytest.approx(0.8e-3, rel=0.2)


def test_context_ignores_the_order_of_time_and_space() -> None:
    generator = ContextGenerator(128, 64)
    video_map = torch.randn(2, 128, 4, 2, 2)
    torch.testing.assert_close(generator(video_map), generator(video_map.flip(2, 3, 4)), atol=1e-8, rtol=1e-4)
