"""Weights under a name that exists with both activations: a tiny architecture, registered for each test."""

import json
import logging
from pathlib import Path

import pytest
import torch
from open_clip import factory
from safetensors.torch import save_file
from torch import Tensor, nn

from evclip_ray.config import ConfigError
from evclip_ray.models import backbones
from evclip_ray.models.clip import load_clip
from evclip_ray.models.clip_weights import find_weights
from evclip_ray.models.open_clip_models import build

SIZES = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch):
    """Register "Tiny" and "Tiny-quickgelu" with open_clip."""
    monkeypatch.setitem(factory._MODEL_CONFIGS, "Tiny", SIZES)
    monkeypatch.setitem(factory._MODEL_CONFIGS, "Tiny-quickgelu", {**SIZES, "quick_gelu": True})
    backbones._architectures.cache_clear()
    yield
    backbones._architectures.cache_clear()


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build("Tiny").state_dict()


@pytest.fixture
def silent(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    """Return a file that does not state its activation."""
    torch.save(state, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def features(clip) -> Tensor:
    images = torch.rand(1, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return clip.encode_frames(images)


def test_silent_file_is_refused_with_both_choices(silent: Path) -> None:
    for name in ("Tiny", "open_clip:Tiny"):
        with pytest.raises(ConfigError, match=r"backbone\.activation to gelu .* or to quickgelu") as caught:
            load_clip(name, str(silent))
        assert f"{silent}.json" in str(caught.value)


def test_activation_changes_the_features_and_the_identity(
    silent: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        gelu = load_clip("Tiny", str(silent), activation="gelu")
        quick = load_clip("Tiny", str(silent), activation="quickgelu")
    assert (gelu.activation, quick.activation) == ("gelu", "quickgelu")
    assert quick.weights == f"{gelu.weights} (quickgelu)"
    assert (features(gelu) - features(quick)).abs().max() > 1e-4
    assert "activation quickgelu (from backbone.activation)" in caplog.text


def test_row_keeps_the_identity_of_earlier_versions(silent: Path) -> None:
    # Local files of a row ran with the row's activation, which is QuickGELU for ViT-B-32.
    usual = find_weights("ViT-B-32", str(silent), "quickgelu")
    assert usual.identity == usual.origin
    assert find_weights("ViT-B-32", str(silent), "gelu").identity == f"{usual.origin} (gelu)"
    assert find_weights("open_clip:ViT-B-32", str(silent), "gelu").identity == usual.origin


def test_file_next_to_the_weights_decides(silent: Path) -> None:
    statement = Path(f"{silent}.json")
    for activation in ("gelu", "quickgelu"):
        statement.write_text(json.dumps({"activation": activation}))
        found = find_weights("Tiny", str(silent))
        assert (found.activation, found.source) == (activation, "weights.pt.json")


def test_folder_of_hugging_face_is_read(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "open_clip_model.safetensors")
    config = {"model_cfg": {**SIZES, "quick_gelu": True}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    clip = load_clip("Tiny", str(tmp_path))
    assert clip.activation == "quickgelu"
    assert clip.weights.startswith("file:")
    assert torch.equal(clip.model.state_dict()["visual.proj"], state["visual.proj"])


def test_name_with_an_activation_needs_no_statement(silent: Path) -> None:
    assert load_clip("Tiny-quickgelu", str(silent)).activation == "quickgelu"


def test_format_of_published_towers_states_quickgelu(tmp_path: Path, state: dict[str, Tensor]) -> None:
    published = {
        key.replace("visual.", "image_encoder.", 1)
        if key.startswith("visual.")
        else f"text_encoder.{key}": value
        for key, value in state.items()
    }
    torch.save({"state_dict": published}, tmp_path / "published.pt")
    save_file(published, tmp_path / "published.safetensors")
    for name in ("published.pt", "published.safetensors"):
        found = find_weights("Tiny", str(tmp_path / name))
        assert (found.activation, found.source) == ("quickgelu", "its format")


def test_format_of_openais_archive_states_quickgelu(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "archive.pt"))
    assert find_weights("Tiny", str(tmp_path / "archive.pt")).activation == "quickgelu"


def test_contradiction_is_logged(silent: Path, caplog: pytest.LogCaptureFixture) -> None:
    Path(f"{silent}.json").write_text(json.dumps({"activation": "gelu"}))
    assert find_weights("Tiny", str(silent), "quickgelu").activation == "quickgelu"
    assert "backbone.activation is quickgelu, but weights.pt.json states gelu" in caplog.text
    assert find_weights("ViT-B-32", "openai", "gelu").identity == "openai (gelu)"
    assert "the weights 'openai' states quickgelu" in caplog.text


def test_name_that_contradicts_the_file_is_logged(silent: Path, caplog: pytest.LogCaptureFixture) -> None:
    Path(f"{silent}.json").write_text(json.dumps({"activation": "gelu"}))
    assert find_weights("Tiny-quickgelu", str(silent)).activation == "quickgelu"
    assert "weights.pt.json states gelu, but the name is used" in caplog.text


def test_tags_keep_their_activation() -> None:
    assert find_weights("ViT-B-32").activation == "quickgelu"
    laion = find_weights("ViT-B-32", "laion2b_s34b_b79k")
    assert (laion.activation, laion.identity) == ("gelu", "laion2b_s34b_b79k")


def test_single_activation_is_not_asked_for(silent: Path) -> None:
    assert find_weights("ViT-B-16-SigLIP", str(silent)).activation == "gelu"
    assert find_weights("debug", str(silent)).activation == "gelu"
    with pytest.raises(ConfigError, match=r"open_clip has it with gelu only, got .*=quickgelu"):
        find_weights("debug", "random", "quickgelu")


def test_random_weights_stay_random_with_an_activation() -> None:
    clip = load_clip("Tiny", "random", activation="quickgelu")
    assert clip.weights == "random (quickgelu)"
    assert clip.is_random
