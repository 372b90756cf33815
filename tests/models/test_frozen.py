import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from evclip_ray.models.batch import Frozen
from evclip_ray.models.clip import FrozenCLIP, load_clip
from evclip_ray.models.frozen import frozen_dtype, hold_in
from evclip_ray.testing.cases import find_cases, load_networks, random_videos
from evclip_ray.testing.conformance import tiny_resnet


class CastsOfWeights(TorchDispatchMode):
    """Counter of the conversions of given weights to another format."""

    def __init__(self, weights):
        super().__init__()
        self.weights, self.count = {weight.data_ptr() for weight in weights}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._to_copy.default:
            self.count += args[0].data_ptr() in self.weights
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        (torch.bfloat16, "cuda", torch.bfloat16),
        (None, "cuda", torch.float32),
        # Stored features of earlier versions are those of float32 weights.
        (torch.bfloat16, "cpu", torch.float32),
    ],
)
def test_frozen_weights_are_rounded_on_a_gpu_alone(precision, device, expected):
    assert frozen_dtype(precision, torch.device(device)) == expected


def test_frozen_weights_in_bfloat16_are_not_cast_in_a_step():
    exact, rounded = load_networks(), load_networks(torch.bfloat16)
    pixels = random_videos(2).pixels
    counts = []
    for networks in (exact, rounded):
        weights = [*networks.clip.model.visual.parameters(), *networks.video_encoder.parameters()]
        images = networks.clip.prepare(pixels).requires_grad_()
        with CastsOfWeights(weights) as casts, torch.autocast("cpu", dtype=torch.bfloat16):
            features = networks.clip.encode_frames(images)
            networks.video_encoder(networks.video_encoder.prepare(pixels))
            features.float().sum().backward()
        counts.append(casts.count)
        assert images.grad.isfinite().all()
    assert counts[0] > 0
    assert counts[1] == 0


def test_text_features_do_not_depend_on_the_format_of_the_images():
    texts = ["opening a door", "pouring water"]
    exact, rounded = load_networks(), load_networks(torch.bfloat16)
    assert torch.equal(exact.clip.encode_text(texts), rounded.clip.encode_text(texts))


def test_rounded_resnet_keeps_its_batch_norms_in_float32():
    torch.manual_seed(0)
    exact = tiny_resnet().model.visual
    norms = [module for module in exact.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    held = copy.deepcopy(exact)
    hold_in(held, torch.bfloat16)
    assert held.conv1.weight.dtype == torch.bfloat16
    pairs = zip(norms, (each for each in held.modules() if isinstance(each, nn.BatchNorm2d)), strict=True)
    assert all(torch.equal(ours.running_mean, theirs.running_mean) for ours, theirs in pairs)
    images = random_videos(2).pixels.flatten(0, 1)
    with torch.no_grad():
        expected, features = exact(images), held(images.bfloat16())
    assert features.dtype == torch.bfloat16
    # Less than the 5 % that the conformance suite allows for a rounded network.
    assert (features - expected).abs().max() < 0.02 * expected.abs().max()


def test_aim_trains_the_last_norm_from_its_exact_values():
    model = load_clip("debug", "random").model
    exact = nn.init.uniform_(copy.deepcopy(model.visual.ln_post.weight))
    model = copy.deepcopy(model)
    model.visual.ln_post.weight.data.copy_(exact)
    clip = FrozenCLIP(model, load_clip("debug", "random").tokenizer, name="debug", embed_dim=64, weights="x")
    hold_in(clip.model.visual, torch.bfloat16)
    norm = find_cases(["aim"])[0].build(Frozen(clip)).norm
    assert torch.equal(norm.weight, exact)
    assert norm.weight.requires_grad
