import open_clip
import pytest
import torch
from torch import nn

from evclip_ray.models.attention import SelfAttention, use_batch_first_attention
from evclip_ray.models.open_clip_models import build


@pytest.fixture
def models() -> tuple[nn.Module, nn.Module]:
    """Return the debug CLIP of open_clip, and a copy with batch-first attention."""
    torch.manual_seed(0)
    plain, lean = build("debug").eval(), build("debug").eval()
    lean.load_state_dict(plain.state_dict())
    use_batch_first_attention(lean)
    assert isinstance(lean.transformer.resblocks[1].attn, SelfAttention)
    return plain, lean


def test_image_features_and_gradients_are_unchanged(models: tuple[nn.Module, nn.Module]) -> None:
    features, gradients = [], []
    for model in models:
        images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
        features.append(model.encode_image(images))
        features[-1].square().sum().backward()
        gradients.append(images.grad)
    torch.testing.assert_close(*features, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=2e-6, rtol=1e-4)


def test_text_features_with_causal_mask_are_unchanged(models: tuple[nn.Module, nn.Module]) -> None:
    tokens = open_clip.get_tokenizer("ViT-B-32")(["a video of diving", "x"])
    torch.testing.assert_close(*(model.encode_text(tokens) for model in models), atol=4e-6, rtol=1e-5)


def test_tensors_keep_their_names(models: tuple[nn.Module, nn.Module]) -> None:
    plain, lean = models
    lean.load_state_dict(plain.state_dict())
    use_batch_first_attention(lean)
    assert list(lean.state_dict()) == list(plain.state_dict())
