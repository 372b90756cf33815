import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evclip_ray.models.activation import stated_activation

STATEMENTS = [
    ("weights.pt.json", {"activation": "quickgelu"}, "quickgelu"),
    ("weights.pt.json", {"activation": "gelu"}, "gelu"),
    ("open_clip_config.json", {"model_cfg": {"embed_dim": 512, "quick_gelu": True}}, "quickgelu"),
    ("open_clip_config.json", {"model_cfg": {"embed_dim": 512}}, "gelu"),
    ("config.json", {"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}, "gelu"),
    ("config.json", {"model_type": "clip", "vision_config": {"hidden_act": "quick_gelu"}}, "quickgelu"),
    ("config.json", {"model_type": "clip", "vision_config": {"width": 768}}, "quickgelu"),
    ("config.json", {"hidden_act": "gelu"}, "gelu"),
]
SILENT = [
    ("config.json", "no JSON"),
    ("config.json", json.dumps(["a list"])),
    ("config.json", json.dumps({"model_type": "llama", "vision_config": {}})),
    ("config.json", json.dumps({"hidden_act": "silu"})),
    ("other.pt.json", json.dumps({"activation": "gelu"})),
]


@pytest.mark.parametrize(("name", "content", "expected"), STATEMENTS)
def test_config_next_to_a_file_states_its_activation(
    tmp_path: Path, name: str, content: object, expected: str
) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    assert stated_activation(tmp_path / "weights.pt") == (expected, name)


@pytest.mark.parametrize(("name", "content"), SILENT)
def test_unrelated_config_states_nothing(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert stated_activation(tmp_path / "weights.pt") is None


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"activation": "gelu"}, "gelu"),
        ({"hidden_act": "quick_gelu"}, "quickgelu"),
        ({"quick_gelu": "True"}, "quickgelu"),
        ({"quick_gelu": "false"}, "gelu"),
    ],
)
def test_metadata_comes_before_a_config(tmp_path: Path, metadata: dict[str, str], expected: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(1)}, path, metadata=metadata)
    other = "gelu" if expected == "quickgelu" else "quickgelu"
    (tmp_path / "weights.safetensors.json").write_text(json.dumps({"activation": other}))
    assert stated_activation(path) == (expected, "the file's metadata")


def test_metadata_without_activation_states_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(1)}, path, metadata={"format": "pt"})
    assert stated_activation(path) is None
    path.write_bytes(b"no weights")
    assert stated_activation(path) is None
