import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evclip_ray.models.frozen import frozen_dtype
from evclip_ray.testing.cases import load_networks, random_videos


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
