import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from evclip_ray.config import ConfigError
from evclip_ray.models.batch import Frozen, VideoBatch
from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.layers.class_descriptions import read_descriptions
from evclip_ray.models.layers.class_text import class_logits, mean_feature
from evclip_ray.models.layers.towers import attention_branch
from evclip_ray.models.methods.ez_clip import EZCLIP, EZCLIPConfig, matching_loss, motion_loss
from evclip_ray.models.methods.zero_shot import ZeroShotConfig

CLASSES = ("walk", "run", "wave")
MetaCLIP = Callable[[str], FrozenCLIP]
LAYERS = {"D_fc1": "down", "D_fc2": "up"}


def built(frozen: Frozen, num_frames: int = 8, **settings: object) -> EZCLIP:
    config = EZCLIPConfig.load({"name": "ez_clip", **settings})
    return config.build(frozen, class_names=CLASSES, num_frames=num_frames, image_size=64)


@pytest.mark.parametrize(
    ("architecture", "prompts", "num_frames", "expected"),
    [
        ("ViT-B-16", "deep", 8, 5_204_736),
        ("ViT-B-32", "deep", 8, 5_204_736),
        ("ViT-B-16", "deep", 16, 5_278_464),
        ("ViT-B-16", "none", 8, 5_131_008),
        ("ViT-B-16", "shallow", 8, 5_131_008 + 8 * 768),
        ("ViT-L-14", "deep", 8, 16_360_704),
    ],
)
def test_parameters_are_the_published_number(
    meta_clip: MetaCLIP, architecture: str, prompts: str, num_frames: int, expected: int
) -> None:
    tokens = torch.zeros(2, 77, dtype=torch.int64)
    frozen = Frozen(meta_clip(architecture))
    method = EZCLIP(frozen, tokens=tokens, num_frames=num_frames, prompts=prompts)
    assert method.num_trainable() == expected


def test_untrained_adapters_give_zero_shot_logits(frozen: Frozen, batch: VideoBatch) -> None:
    method = built(frozen, prompts="none")
    zero_shot = ZeroShotConfig().build(frozen, class_names=CLASSES, num_frames=8, image_size=64)
    torch.testing.assert_close(method(batch).logits, zero_shot(batch).logits, atol=2e-4, rtol=0)


def test_order_of_frames_changes_logits_with_prompts(frozen: Frozen, batch: VideoBatch) -> None:
    assert batch.pixels is not None
    reversed_batch = VideoBatch(batch.pixels.flip(1))
    for prompts, tells in (("none", False), ("shallow", True), ("deep", True)):
        method = built(frozen, prompts=prompts).eval()
        change = (method(batch).logits - method(reversed_batch).logits).abs().max()
        assert (change > 1e-3) == tells


def test_labels_restrict_texts_to_the_batch(frozen: Frozen, batch: VideoBatch) -> None:
    method = built(frozen)
    labels = torch.tensor([2, 0, 2])
    whole = method(batch)
    part = method(VideoBatch(batch.pixels, labels=labels))
    torch.testing.assert_close(part.logits[:, [0, 2]], whole.logits[:, [0, 2]], atol=1e-4, rtol=0)
    assert part.logits[:, 1].isneginf().all()
    for name, term in method.losses(whole, labels).items():
        torch.testing.assert_close(method.losses(part, labels)[name], term)


def test_texts_are_cached_until_an_adapter_changes(frozen: Frozen, batch: VideoBatch) -> None:
    method = built(frozen).eval()
    with torch.no_grad():
        before = method(batch)
        again = method(batch)
        assert again.extra["text_features"] is before.extra["text_features"]
        method.text_adapters[0].up.bias.add_(torch.linspace(0, 1, 64))
        after = method(batch)
    assert not torch.equal(after.extra["text_features"], before.extra["text_features"])


def test_dropout_acts_in_training_only(frozen: Frozen, batch: VideoBatch) -> None:
    method = built(frozen, drop_path=0.5, prompt_dropout=0.5)
    assert not torch.equal(method(batch).logits, method(batch).logits)
    method.eval()
    assert torch.equal(method(batch).logits, method(batch).logits)


def test_other_number_of_frames_is_refused(frozen: Frozen, pixels: Tensor) -> None:
    with pytest.raises(ValueError, match="for 8 frames, got 4"):
        built(frozen)(VideoBatch(pixels[:, :4]))


def test_backbone_without_vit_is_refused(meta_clip: MetaCLIP) -> None:
    tokens = torch.zeros(2, 77, dtype=torch.int64)
    for architecture, tower in (("RN50", "ModifiedResNet"), ("EVA02-B-16", "TimmModel")):
        with pytest.raises(ConfigError, match=f"backbone {architecture} has a {tower}"):
            EZCLIP(Frozen(meta_clip(architecture)), tokens=tokens, num_frames=8)


def test_temporal_adapters_have_the_published_number(meta_clip: MetaCLIP) -> None:
    for architecture, expected in (
        ("ViT-B-16", 8_681_472),
        ("ViT-B-32", 8_681_472),
        ("ViT-L-14", 28_777_728),
    ):
        method = EZCLIP(
            Frozen(meta_clip(architecture)),
            tokens=torch.zeros(2, 77, dtype=torch.int64),
            num_frames=8,
            prompts="none",
            temporal_adapters=True,
        )
        assert method.num_trainable() == expected


def with_random_adapters(frozen: Frozen, **settings: object) -> EZCLIP:
    torch.manual_seed(0)
    method = built(frozen, prompts="none", temporal_adapters=True, **settings).eval()
    for index, adapter in enumerate(method.temporal_adapters):
        generator = torch.Generator().manual_seed(index)
        adapter.up.weight.data.normal_(std=0.3, generator=generator)
    return method


@torch.no_grad()
def test_released_layout_mixes_videos_and_ours_does_not(frozen: Frozen, pixels: Tensor) -> None:
    right, released = with_random_adapters(frozen), with_random_adapters(frozen, frame_layout="released")
    alone = right(VideoBatch(pixels[:1])).logits
    # One video alone has one layout.
    torch.testing.assert_close(released(VideoBatch(pixels[:1])).logits, alone)
    torch.testing.assert_close(right(VideoBatch(pixels)).logits[:1], alone, atol=1e-3, rtol=0)
    assert (released(VideoBatch(pixels)).logits[:1] - alone).abs().max() > 0.05


@torch.no_grad()
def test_released_layout_follows_the_released_shapes(frozen: Frozen) -> None:
    # The release writes tokens (L, B T, W) as (T, L B, W), and its result as (L, T B, W).
    method = with_random_adapters(frozen, frame_layout="released")
    block, adapter = frozen.clip.model.visual.transformer.resblocks[0], method.temporal_adapters[0]
    tokens = torch.randn(3 * 8, 17, 64, generator=torch.Generator().manual_seed(0))
    released = tokens.transpose(0, 1).reshape(17, 3, 8, 64).permute(2, 0, 1, 3).reshape(8, 17 * 3, 64)
    released = adapter(attention_branch(block, released.transpose(0, 1))).transpose(0, 1)
    released = released.reshape(8, 17, 3, 64).permute(1, 0, 2, 3).reshape(17, 8 * 3, 64).transpose(0, 1)
    torch.testing.assert_close(method._change_over_time(0, block, tokens), released, atol=1e-5, rtol=0)


def test_temporal_adapters_see_frames_but_no_order(frozen: Frozen, pixels: Tensor) -> None:
    method = with_random_adapters(frozen)
    forward, halves = method(VideoBatch(pixels)).logits, pixels.clone()
    # Attention over time has no positions: a reversed video gives equal logits, other frames do not.
    torch.testing.assert_close(method(VideoBatch(pixels.flip(1))).logits, forward, atol=1e-3, rtol=0)
    halves[:, 4:] = halves[:, :4]
    assert (method(VideoBatch(halves)).logits - forward).abs().max() > 1e-3


def test_combinations_without_effect_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"temporal_adapters replaces the temporal prompts.*prompts to none"
    ):
        EZCLIPConfig.load({"name": "ez_clip", "temporal_adapters": True})
    with pytest.raises(
        ConfigError, match=r"frame_layout=released has an effect with method\.temporal_adapters"
    ):
        EZCLIPConfig.load({"name": "ez_clip", "prompts": "none", "frame_layout": "released"})


def test_new_settings_keep_earlier_dumps_equal() -> None:
    dumped = EZCLIPConfig().model_dump()
    assert "temporal_adapters" not in dumped
    assert "frame_layout" not in dumped
    chosen = EZCLIPConfig.load({"name": "ez_clip", "prompts": "none", "temporal_adapters": True})
    assert EZCLIPConfig.load(chosen.model_dump()) == chosen


def test_motion_loss_has_the_worked_values() -> None:
    assert motion_loss(torch.ones(2, 8, 4)) == 1
    assert motion_loss(torch.rand(2, 1, 4)) == 1
    noise = torch.randn(64, 8, 512, generator=torch.Generator().manual_seed(0))
    assert float(motion_loss(noise)) == pytest.approx(0.390, abs=1e-3)


def test_videos_of_one_class_share_their_texts() -> None:
    labels = torch.tensor([0, 0, 1])
    perfect = 10.0 * (labels[:, None] == labels[None, :])
    assert float(matching_loss(perfect, labels)) == pytest.approx(0, abs=1e-6)
    assert matching_loss(torch.eye(3) * 10, labels) > 0.1


# ---------------------------------------------------------------- class descriptions


def test_class_descriptions_come_from_a_csv(tmp_path: Path, frozen: Frozen, batch: VideoBatch) -> None:
    path = tmp_path / "texts.csv"
    path.write_text(
        'SNo,Class Name,GPT3 discription\n1,Wave,"A hand\nmoves, left and right."\n'
        "2,RUN,legs move fast\n\n3,walk,legs move\n4,jump,up\n",
        encoding="utf-8-sig",
    )
    assert read_descriptions(path, CLASSES) == [
        "legs move",
        "legs move fast",
        "A hand moves, left and right.",
    ]
    described = built(frozen, descriptions=str(path))
    assert not torch.equal(described(batch).logits, built(frozen)(batch).logits)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("class,text\nwalk,a\nrun,b\n", "class 'wave' has no description"),
        ("class,text\nwalk,a\nrun,b\nwave,\n", "class 'wave' has no description"),
        ("class,text\nwalk,a\nWalk,b\n", "'Walk' is described twice"),
        ("number,text\n1,a\n", "one column must be named like a class name, got 0"),
        ("class,value\nwalk,a\n", "one column must be named like a description, got 0"),
        ("class,text\nwalk\n", "a row must have 2 cells"),
        ("", "has no rows"),
    ],
)
def test_broken_descriptions_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "texts.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_descriptions(path, CLASSES)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_descriptions(tmp_path / "absent.csv", CLASSES)


def test_class_descriptions_come_from_json(tmp_path: Path) -> None:
    path = tmp_path / "texts.json"
    path.write_text('{"Run": "legs move fast", "wave": "a\\nhand", "walk": "legs move"}', encoding="utf-8")
    assert read_descriptions(path, CLASSES) == ["legs move", "legs move fast", "a hand"]
    for content, message in (
        ('{"walk": 1}', 'must be {"class": "description"'),
        ('{"walk": "a", "Walk": "b"}', "'Walk' is described twice"),
        ("walk", "not valid JSON"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            read_descriptions(path, CLASSES)


def test_long_description_needs_allow_truncation(tmp_path: Path, frozen: Frozen) -> None:
    path = tmp_path / "texts.csv"
    rows = [f"{name},{name} {'and on ' * 60}" for name in CLASSES]
    path.write_text("class,description\n" + "\n".join(rows), encoding="utf-8")
    with pytest.raises(ValueError, match="longer than the 77 tokens of debug"):
        built(frozen, descriptions=str(path))
    built(frozen, descriptions=str(path), allow_truncation=True)


# ---------------------------------------------------------------- the published implementation


def published_name(name: str) -> str:
    """Return our name of a trained tensor that is published as `name`."""
    if "prompt" in name:
        return "temporal_prompts"
    tower = "image_adapters" if name.startswith("visual") else "text_adapters"
    parts = name.removeprefix("visual.").split(".")
    return ".".join([tower, parts[2], LAYERS[parts[4]], parts[5]])


def published_model(state: Mapping[str, Tensor], tokens: Tensor) -> EZCLIP:
    own = {name: value for name, value in state.items() if "prompt" not in name and "Adapter" not in name}
    del own["visual.temporal_embedding"]
    model = open_clip.CLIP(
        embed_dim=64,
        vision_cfg={"image_size": 64, "patch_size": 16, "width": 128, "layers": 3, "head_width": 64},
        text_cfg={"context_length": 20, "vocab_size": 512, "width": 64, "heads": 1, "layers": 2},
        quick_gelu=True,
    )
    model.load_state_dict(own)
    model.visual.preprocess_cfg = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    clip = FrozenCLIP(model, lambda *_, **__: tokens, name="tiny", embed_dim=64, weights="random")
    method = EZCLIP(Frozen(clip), tokens=tokens, num_frames=8)
    trained = state.keys() - own.keys() - {"visual.temporal_embedding"}
    method.load_state_dict({published_name(name): state[name] for name in trained})
    return method


def test_the_published_implementation_is_reproduced(shared: Path) -> None:
    oracle = shared / "oracle"
    io = {
        key: torch.from_numpy(value) for key, value in np.load(oracle / "ezclip_tiny_prompt_io.npz").items()
    }
    meta = json.loads((oracle / "ezclip_tiny_prompt_meta.json").read_text())
    state = load_file(oracle / "ezclip_tiny_prompt_state.safetensors")
    method, labels = published_model(state, io["tokens"]), io["labels"]

    # The published model adds a temporal embedding that is zero and frozen; here it is random.
    images, added = io["images"].unflatten(0, (3, 8)), state["visual.temporal_embedding"].transpose(0, 1)
    tower = method.image_tower
    frames = tower.project(tower.encode(images, method.image_block, added=added))
    texts = method.encode_text(io["tokens"])
    # Float32 sums in another order, by the kind of CPU: 2.3e-6 at the most on those seen.
    torch.testing.assert_close(frames, io["image_embedding"], atol=1e-5, rtol=0)
    torch.testing.assert_close(texts, io["text_embedding"], atol=1e-5, rtol=0)

    logits = class_logits(method.frozen.clip, mean_feature(frames), F.normalize(texts, dim=-1))
    torch.testing.assert_close(logits, io["logits_per_image"], atol=2e-5, rtol=1e-6)
    matching, motion = matching_loss(logits, labels), motion_loss(frames)
    assert matching.item() == pytest.approx(float(io["kl_image"] + io["kl_text"]) / 2, abs=1e-6)
    assert motion.item() == pytest.approx(float(io["motion"]), abs=1e-6)
    assert (matching + motion).item() == pytest.approx(float(io["total"]), abs=1e-6)

    (matching + motion).backward()
    gradients = {name: p.grad for name, p in method.named_parameters()}
    assert {published_name(name) for name in meta["trainable"]} == gradients.keys()
    for name, norm in meta["grad_norms"].items():
        assert gradients[published_name(name)].norm().item() == pytest.approx(norm, rel=1e-5)
    for name, expected in io.items():
        if name.startswith("grad::"):
            ours = gradients[published_name(name.removeprefix("grad::"))]
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_the_published_motion_loss_is_reproduced(shared: Path) -> None:
    io = np.load(shared / "oracle" / "ezclip_motion_io.npz")
    frames = torch.from_numpy(io["x"])
    assert float(motion_loss(frames)) == pytest.approx(float(io["loss"]), abs=1e-6)
    assert float(motion_loss(frames / 2)) == pytest.approx(float(io["loss_half"]), abs=1e-6)


def test_the_published_parts_have_the_published_sizes(shared: Path, meta_clip: MetaCLIP) -> None:
    stats = json.loads((shared / "oracle" / "ezclip_real_stats.json").read_text())
    for name in ("ViT-B/32", "ViT-B/16", "ViT-L/14"):
        clip = meta_clip(name.replace("/", "-"))
        method = EZCLIP(Frozen(clip), tokens=torch.zeros(2, 77, dtype=torch.int64), num_frames=8)
        assert method.temporal_prompts.numel() == stats[name]["prompts"]
        assert count(method.image_adapters) == stats[name]["visual_adapters"]
        assert count(method.text_adapters) == stats[name]["text_adapters"]
        assert method.num_trainable() == stats[name]["trainable_total"]


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
