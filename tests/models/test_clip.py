import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub.constants
import open_clip
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from evclip_ray.config import ConfigError
from evclip_ray.models import clip as clip_module
from evclip_ray.models.clip import FrozenCLIP, load_clip
from evclip_ray.models.open_clip_models import build

DIGEST = """
import hashlib, torch
from evclip_ray.models.clip import load_clip
from evclip_ray.models.video_encoder import load_video_encoder
before = torch.get_rng_state()
modules = load_clip("debug", "random"), load_video_encoder("swin3d_debug", "random")
assert torch.equal(before, torch.get_rng_state())
states = (value for module in modules for value in module.state_dict().values())
digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in states)).hexdigest()
"""


def tiny_resnet() -> FrozenCLIP:
    vision = {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    model = open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text, quick_gelu=True)
    return wrapped(model, embed_dim=32)


def wrapped(model: nn.Module, *, embed_dim: int) -> FrozenCLIP:
    model.visual.preprocess_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    return FrozenCLIP(model, tokenizer, name="tiny", embed_dim=embed_dim, weights="random")


def test_random_weights_are_reproducible_and_never_silent() -> None:
    command = [sys.executable, "-c", f"{DIGEST}print(digest)"]
    other = subprocess.run(command, capture_output=True, text=True, check=True)
    # This process has drawn other random numbers before.
    torch.manual_seed(2)
    ours: dict[str, str] = {}
    exec(DIGEST, ours)
    assert other.stdout.strip() == ours["digest"]
    assert "CLIP debug has RANDOM weights" in other.stderr
    assert "video encoder swin3d_debug has RANDOM weights" in other.stderr


def test_backbone_is_loaded_once_per_process(clip: FrozenCLIP) -> None:
    assert load_clip("debug", pretrained="random") is clip
    assert clip.is_random
    assert clip.weights == "random"
    assert clip.logit_scale == pytest.approx(100)
    assert clip.logit_bias is None


@pytest.mark.parametrize("make", [lambda: load_clip("debug", "random"), tiny_resnet])
def test_frozen_stays_frozen_through_train_and_a_step(make) -> None:
    clip = make()
    before = {key: value.clone() for key, value in clip.state_dict().items()}
    nn.Sequential(clip).train()
    images = torch.rand(2, 3, 3, 64, 64, requires_grad=True)
    clip.encode_frames(images).square().sum().backward()
    torch.optim.AdamW([images, *clip.parameters()], lr=0.1).step()
    assert not any(module.training for module in clip.modules())
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(torch.equal(before[key], value) for key, value in clip.state_dict().items())


def test_frames_are_encoded_independently_in_order(clip: FrozenCLIP, pixels: Tensor) -> None:
    images = clip.prepare(pixels)
    features = clip.encode_frames(images)
    assert features.shape == (3, 8, 64)
    torch.testing.assert_close(features[1, 5], clip.encode_frames(images[1:2, 5:6])[0, 0])


def test_prepare_normalises_without_resampling_a_fitting_size(clip: FrozenCLIP) -> None:
    grey = torch.full((1, 2, 3, 64, 64), 0.5)
    images = clip.prepare(grey)
    expected = [(0.5 - mean) / std for mean, std in zip(clip.mean, clip.std, strict=True)]
    torch.testing.assert_close(images[0, 0, :, 0, 0], torch.tensor(expected))
    assert clip.prepare(grey, mean=(0.5,) * 3, std=(1.0,) * 3).abs().max() == 0


def test_prepare_resizes_within_the_range_of_pixels(clip: FrozenCLIP) -> None:
    stripes = (torch.arange(100) % 20 < 10).float().expand(1, 2, 3, 100, 100)
    images = clip.prepare(stripes, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert images.shape == (1, 2, 3, 64, 64)
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("pixels", [torch.zeros(2, 3, 64, 64), torch.zeros(1, 2, 3, 64, 64).byte()])
def test_prepare_refuses_other_shapes_and_types(clip: FrozenCLIP, pixels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"pixels must be \(B, T, 3, H, W\) float in \[0, 1\]"):
        clip.prepare(pixels)


def test_text_is_normalised_and_unchanged_by_autocast(clip: FrozenCLIP) -> None:
    texts = ["A video of diving.", "A video of archery."]
    features = clip.encode_text(texts)
    with torch.autocast("cpu", torch.bfloat16):
        again = clip.encode_text(texts)
    assert features.dtype == again.dtype == torch.float32
    assert torch.equal(features, again)
    assert not features.requires_grad
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2))


def test_texts_of_several_chunks_keep_their_order(clip: FrozenCLIP) -> None:
    texts = [f"class {index}" for index in range(300)]
    torch.testing.assert_close(clip.encode_text(texts)[290:], clip.encode_text(texts[290:]))


def test_text_longer_than_the_context_is_named(clip: FrozenCLIP) -> None:
    fits, overflows = "word " * 75, "far " * 76
    assert clip.encode_text([fits]).shape == (1, 64)
    with pytest.raises(
        ValueError, match=r"1 of . texts are longer than the 77 tokens of debug, the first: 'far far"
    ):
        clip.encode_text([fits, overflows])
    assert clip.encode_text([overflows], allow_truncation=True).shape == (1, 64)


def test_empty_list_of_texts_is_refused(clip: FrozenCLIP) -> None:
    with pytest.raises(ValueError, match="at least one text"):
        clip.encode_text([])


def test_half_precision_applies_to_the_image_tower_only(pixels: Tensor, clip: FrozenCLIP) -> None:
    half = load_clip("debug", "random", dtype=torch.bfloat16)
    assert half.encode_frames(half.prepare(pixels)).dtype == torch.bfloat16
    assert torch.equal(half.encode_text(["diving"]), clip.encode_text(["diving"]))


def test_checkpointed_activations_give_the_same_gradient(clip: FrozenCLIP, pixels: Tensor) -> None:
    saving = load_clip("debug", "random", activation_checkpointing=True)
    gradients = []
    for network in (clip, saving):
        images = network.prepare(pixels).requires_grad_(True)
        network.encode_frames(images).square().sum().backward()
        gradients.append(images.grad)
    assert torch.equal(*gradients)


def saved(state: dict[str, Tensor], path: Path) -> str:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


def debug_state() -> dict[str, Tensor]:
    return {key: value + 0.01 for key, value in build("debug").state_dict().items()}


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_weights_come_from_a_local_file_and_carry_its_digest(tmp_path: Path, name: str) -> None:
    state = debug_state()
    clip = load_clip("debug", saved(state, tmp_path / name))
    assert clip.weights.startswith("file:")
    assert len(clip.weights) == len("file:") + 16
    assert not clip.is_random
    assert all(torch.equal(value, state[key]) for key, value in clip.model.state_dict().items())


class Archive(nn.Module):
    """Tensors of a module in half precision under the same names, as in an OpenAI archive."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for name, child in module.named_children():
            self.add_module(name, Archive(child))
        for name, value in module.named_parameters(recurse=False):
            self.register_parameter(name, nn.Parameter(value.detach().half()))

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_openai_archive_is_read(tmp_path: Path) -> None:
    model = build("debug")
    archive = Archive(model)
    for name in ("input_resolution", "context_length", "vocab_size"):
        archive.register_buffer(name, torch.tensor(64))
    path = tmp_path / "archive.pt"
    torch.jit.script(archive).save(str(path))
    loaded = load_clip("debug", str(path)).model.state_dict()
    assert loaded["logit_scale"].dtype == torch.float32
    assert all(torch.equal(loaded[key], value.half().float()) for key, value in model.state_dict().items())


def test_towers_of_a_published_checkpoint_are_read(tmp_path: Path) -> None:
    state = debug_state()
    published = {
        "logit_scale"
        if key == "logit_scale"
        else key.replace("visual.", "image_encoder.", 1)
        if key.startswith("visual.")
        else f"text_encoder.{key}": value
        for key, value in state.items()
    }
    extra = {"image_prompt_learner.dec.context_scale": torch.zeros(())}
    path = saved({"state_dict": published | extra}, tmp_path / "published.pt")
    loaded = load_clip("debug", path).model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_file_with_other_content_is_named(tmp_path: Path) -> None:
    foreign = saved({"weight": torch.zeros(2)}, tmp_path / "foreign.pt")
    with pytest.raises(ConfigError, match=r"foreign\.pt: does not contain the weights of debug"):
        load_clip("debug", foreign)


def test_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "code.pt"
    torch.save({"weight": print}, path)
    with pytest.raises(ConfigError, match=r"code\.pt: .*state dict of plain tensors"):
        load_clip("debug", str(path))


def test_unknown_weights_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown weights 'openai'. Give a local file or one of random"):
        load_clip("debug", "openai")
    with pytest.raises(
        ConfigError, match=r"unknown weights None. Give a local file or one of laion2b_s32b_b79k, .*random"
    ):
        load_clip("ViT-H-14")


def test_failed_download_of_weights_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ConfigError, match=r"'openai' are not on this machine and cannot be downloaded .*offline"
    ):
        load_clip("RN50")


def test_unreachable_hub_is_one_line_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    # The download of huggingface_hub tries a closed port for 40 seconds and logs every attempt.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError) as error:
        load_clip("RN50")
    assert "127.0.0.1:9" in str(error.value)
    assert "set backbone.pretrained and method.video_encoder.weights to local files, or to 'ra" in str(
        error.value
    )
    assert "\n" not in str(error.value)
    assert not caplog.records


def test_failed_download_of_a_tokenizer_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(name: str) -> None:
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "get_tokenizer", unavailable)
    # The process keeps a tokenizer that was loaded before.
    monkeypatch.setattr(clip_module, "tokenizer_of", clip_module.tokenizer_of.__wrapped__)
    with pytest.raises(
        ConfigError, match=r"tokenizer could not be downloaded from the Hugging Face hub .*no network"
    ):
        load_clip("debug", "random", dtype=torch.float64)


def test_resnet_refuses_activation_checkpointing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evclip_ray.models.clip.build", lambda _: tiny_resnet().model)
    with pytest.raises(ConfigError, match="no activation checkpointing"):
        load_clip("RN50x4", "random", activation_checkpointing=True)


def test_sigmoid_model_keeps_its_bias() -> None:
    model = tiny_siglip()
    clip = wrapped(model, embed_dim=16)
    assert clip.logit_bias == pytest.approx(-10)
    assert clip.logit_scale == pytest.approx(10)
    assert clip.encode_text(["diving"]).shape == (1, 16)
    assert clip.encode_frames(torch.rand(1, 2, 3, 64, 64)).shape == (1, 2, 16)


def tiny_siglip() -> nn.Module:
    model = open_clip.CustomTextCLIP(
        embed_dim=16,
        vision_cfg={"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "avg", "timm_proj": "linear"},
        text_cfg={"width": 16, "heads": 1, "layers": 1, "no_causal_mask": True, "pool_type": "last"},
        init_logit_scale=math.log(10),
        init_logit_bias=-10,
    )
    model.visual.set_input_size(64)
    return model


def test_encode_text_accepts_any_sequence(clip: FrozenCLIP) -> None:
    texts: Sequence[str] = ("a", "b")
    assert clip.encode_text(texts).shape == (2, 64)
