"""CoOp, linear probe, prototypes, fine-tuning, ST-Adapter and AIM: published sizes and start at CLIP.

One file, because most tests compare several of these methods.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evclip_ray.config import ConfigError
from evclip_ray.models.batch import Frozen, VideoBatch
from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.layers.prompted_text import prompted_tokens
from evclip_ray.models.layers.towers import TextTower
from evclip_ray.models.methods import find_method
from evclip_ray.models.methods.aim import AIM
from evclip_ray.models.methods.base import Method
from evclip_ray.models.methods.coop import CoOp
from evclip_ray.models.methods.fine_tune import FineTune
from evclip_ray.models.methods.linear_probe import LinearProbe
from evclip_ray.models.methods.st_adapter import STAdapter

CLASSES = ("walk", "run", "wave")
MetaCLIP = Callable[[str], FrozenCLIP]


def built(name: str, frozen: Frozen, **settings: object) -> Method:
    config = find_method(name).load({"name": name, **settings})
    return config.build(frozen, class_names=CLASSES, num_frames=8, image_size=64)


def texts(number: int) -> Tensor:
    return torch.zeros(number, 77, dtype=torch.int64)


# ---------------------------------------------------------------- what trains


@pytest.mark.parametrize(
    ("architecture", "settings", "expected"),
    [
        ("ViT-B-16", {}, 8_192),
        ("ViT-L-14", {}, 12_288),
        ("ViT-B-16", {"class_specific": True}, 827_392),
    ],
)
def test_coop_has_the_published_size(
    meta_clip: MetaCLIP, architecture: str, settings: dict[str, bool], expected: int
) -> None:
    method = CoOp(Frozen(meta_clip(architecture)), tokens=texts(101), **settings)
    assert method.num_trainable() == expected


@pytest.mark.parametrize(
    ("architecture", "placement", "num_classes", "expected"),
    [
        ("ViT-B-16", "mlp", None, 7_110_144),
        ("ViT-B-16", "both", None, 14_220_288),
        ("ViT-L-14", "mlp", None, 18_945_024),
        ("ViT-L-14", "both", None, 37_890_048),
        ("ViT-B-16", "mlp", 51, 7_110_144 + 769 * 51),
    ],
)
def test_st_adapter_has_the_published_size(
    meta_clip: MetaCLIP, architecture: str, placement: str, num_classes: int | None, expected: int
) -> None:
    method = STAdapter(
        Frozen(meta_clip(architecture)),
        text_features=torch.zeros(101, 512) if num_classes is None else None,
        num_classes=num_classes or 101,
        placement=placement,
    )
    assert method.num_trainable() == expected


@pytest.mark.parametrize(
    ("architecture", "temporal_adapters", "num_classes", "expected"),
    [
        ("ViT-B-16", 1, None, 10_659_072),
        ("ViT-B-16", 2, None, 14_209_536),
        ("ViT-L-14", 1, None, 37_851_136),
        ("ViT-L-14", 2, None, 50_464_768),
        ("ViT-B-16", 1, 51, 10_698_291),
        ("ViT-B-16", 1, 101, 10_736_741),
        ("ViT-B-16", 1, 174, 10_792_878),
    ],
)
def test_aim_has_the_published_size(
    meta_clip: MetaCLIP, architecture: str, temporal_adapters: int, num_classes: int | None, expected: int
) -> None:
    method = AIM(
        Frozen(meta_clip(architecture)),
        text_features=torch.zeros(101, 512) if num_classes is None else None,
        num_classes=num_classes or 101,
        num_frames=8,
        temporal_adapters=temporal_adapters,
    )
    assert method.num_trainable() == expected


def test_fine_tune_trains_all_but_the_word_table(meta_clip: MetaCLIP) -> None:
    method = FineTune(Frozen(meta_clip("ViT-B-16")), tokens=texts(101))
    assert method.num_trainable() == 124_323_841


def test_linear_probe_has_a_row_and_a_bias_per_class(meta_clip: MetaCLIP) -> None:
    assert LinearProbe(Frozen(meta_clip("ViT-B-16")), num_classes=101).num_trainable() == 513 * 101


# ---------------------------------------------------------------- where training starts


@pytest.mark.parametrize("name", ["fine_tune", "st_adapter", "aim", "prototype"])
def test_untrained_method_gives_zero_shot_logits(frozen: Frozen, batch: VideoBatch, name: str) -> None:
    template = "a photo of a {}."
    zero_shot = built("zero_shot", frozen, template=template)
    method = built(name, frozen, template=template)
    torch.testing.assert_close(method(batch).logits, zero_shot(batch).logits, atol=5e-4, rtol=0)


@pytest.mark.parametrize(("name", "settings"), [("st_adapter", {"placement": "both"}), ("aim", {})])
def test_trained_temporal_adapters_read_the_order(
    frozen: Frozen, batch: VideoBatch, name: str, settings: dict[str, object]
) -> None:
    method = built(name, frozen, **settings)
    assert batch.pixels is not None
    backwards = VideoBatch(batch.pixels.flip(1))
    torch.testing.assert_close(method(batch).logits, method(backwards).logits, atol=5e-4, rtol=0)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        assert (method(batch).logits - method(backwards).logits).abs().max() > 1e-2


def test_linear_heads_drop_in_training_only(frozen: Frozen, batch: VideoBatch) -> None:
    for name in ("st_adapter", "aim"):
        method = built(name, frozen, head="linear")
        assert not torch.equal(method(batch).logits, method(batch).logits)
        method.eval()
        assert torch.equal(method(batch).logits, method(batch).logits)


# ---------------------------------------------------------------- CoOp


def test_word_embeddings_as_vectors_give_the_text(frozen: Frozen) -> None:
    clip = frozen.clip
    method = built("coop", frozen, num_vectors=3)
    tower = TextTower(clip.model, name="debug", method="coop")
    with torch.no_grad():
        method.vectors.copy_(tower.embed(clip.tokenize(["a video of"]))[:, 1:4])
        expected = clip.encode_text([f"a video of {name}." for name in CLASSES])
        output = method(VideoBatch(None, frame_features=torch.randn(4, 8, 64)))
        video = output.video_features
        torch.testing.assert_close(output.logits, clip.logit_scale * video @ expected.T, atol=5e-4, rtol=0)


def test_long_name_with_vectors_is_refused(frozen: Frozen) -> None:
    long_name = "very " * 60 + "long"
    with pytest.raises(
        ConfigError, match=r"'very .* and 16 learned vectors must fit in debug's context of 77"
    ):
        prompted_tokens(frozen.clip, [long_name, "short"], 16)
    assert prompted_tokens(frozen.clip, [long_name, "short"], 4).shape == (2, 77)


# ---------------------------------------------------------------- prototypes and fine-tuning


def test_prototypes_converge_to_the_class_means(frozen: Frozen) -> None:
    method = built("prototype", frozen)
    features = torch.randn(9, 8, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1] * 4 + [0])
    start = method.prototypes[2].detach().clone()
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(300):
        output = method(VideoBatch(None, frame_features=features))
        optimizer.zero_grad()
        method.losses(output, labels)["distance"].backward()
        optimizer.step()
    for label in (0, 1):
        mean = output.video_features[labels == label].mean(0)
        torch.testing.assert_close(method.prototypes[label].detach(), mean, atol=2e-3, rtol=0)
    assert torch.equal(method.prototypes[2].detach(), start)


def test_fine_tune_does_not_share_memory_with_clip(frozen: Frozen, batch: VideoBatch) -> None:
    method = built("fine_tune", frozen)
    table = frozen.clip.model.token_embedding.weight
    assert all(parameter.data_ptr() != table.data_ptr() for parameter in method.parameters())
    own = {p.data_ptr() for p in frozen.clip.parameters()}
    assert not own & {p.data_ptr() for p in method.parameters()}
    assert not any("token_embedding" in name for name in method.state_dict())


def test_image_tower_methods_refuse_a_resnet(meta_clip: MetaCLIP) -> None:
    frozen = Frozen(meta_clip("RN50"))
    for kind, keywords in ((AIM, {"num_frames": 8}), (STAdapter, {})):
        with pytest.raises(ConfigError, match=r"backbone RN50 has a ModifiedResNet\. Choose a ViT"):
            kind(frozen, text_features=None, num_classes=3, **keywords)


def test_text_tower_methods_refuse_other_towers(meta_clip: MetaCLIP) -> None:
    with pytest.raises(ConfigError, match="has no such entrance"):
        CoOp(Frozen(meta_clip("coca_ViT-B-32")), tokens=texts(3))
