import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from evclip_ray.config import ConfigError
from evclip_ray.models.backbones import BACKBONES, find_backbone
from evclip_ray.models.open_clip_models import build

FAMILIES = ("ViT-H-14", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP2", "EVA02-B-16", "MobileCLIP-S1")


@pytest.mark.parametrize("name", [*BACKBONES, *FAMILIES])
def test_every_backbone_has_its_stated_sizes_and_gradients(name: str) -> None:
    row = find_backbone(name)
    model = build(row.architecture(row.activation_of(row.pretrained)), device="meta").eval()
    images = torch.zeros(2, 3, row.image_size, row.image_size, device="meta", requires_grad=True)
    features = model.encode_image(images)
    assert features.shape == (2, row.embed_dim)
    assert features.requires_grad


@pytest.mark.parametrize("name", list(BACKBONES))
def test_stated_gmac_is_the_cost_of_a_frame(name: str) -> None:
    row = BACKBONES[name]
    model = build(row.architecture(row.activation_of(row.pretrained)), device="meta").eval()
    with FlopCounterMode(display=False) as counter:
        model.encode_image(torch.zeros(1, 3, row.image_size, row.image_size, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(row.gmac, rel=5e-3)


def test_openai_weights_use_their_activation() -> None:
    row = BACKBONES["ViT-B-16"]
    assert row.activation_of("openai") == "quickgelu"
    assert row.activation_of("laion2b_s34b_b88k") == "gelu"
    assert row.architecture("quickgelu") == "ViT-B-16-quickgelu"
    assert row.architecture("gelu") == "ViT-B-16"
    assert find_backbone("open_clip:ViT-B-16").activation_of(None) == "gelu"
    assert find_backbone("ViT-B-16-quickgelu").activation_of(None) == "quickgelu"


def test_activation_of_a_single_variant_is_that_of_its_config() -> None:
    row = find_backbone("roberta-ViT-B-32")
    assert not row.has_both_activations
    assert row.activation_of(None) == "quickgelu"
    assert row.architecture("quickgelu") == "roberta-ViT-B-32"


def test_colours_do_not_depend_on_the_origin_of_weights() -> None:
    siglip = build("ViT-B-16-SigLIP", device="meta")
    assert siglip.visual.preprocess_cfg["mean"] == (0.5, 0.5, 0.5)
    mobile = build("MobileCLIP-S1", device="meta")
    assert mobile.visual.preprocess_cfg["mean"] == (0.0, 0.0, 0.0)


def test_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'ViT-B-61' is unknown; did you mean 'ViT-B-16'"):
        find_backbone("ViT-B-61")
