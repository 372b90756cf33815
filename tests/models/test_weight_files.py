from pathlib import Path

import pytest
import torch

from evclip_ray.config import ConfigError
from evclip_ray.models.weight_files import describe_mismatch, read_tensors


def test_tensors_of_nested_releases_are_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "state_dict": {"module.weight": torch.ones(2), "note": "text"}}, path)
    state = read_tensors(path)
    assert list(state) == ["weight"]
    assert torch.equal(state["weight"], torch.ones(2))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.ones(2)], "contains a list"),
        ({"epoch": 3}, "contains no tensors"),
        ({"weight": print}, "state dict of plain tensors"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: object, reason: str) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    with pytest.raises(ConfigError, match=rf"checkpoint\.pth: .*{reason}"):
        read_tensors(path)


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_broken_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(ConfigError, match=name) as caught:
        read_tensors(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tensors(tmp_path / "absent.pth")


def test_tensors_of_another_network_are_counted_and_named() -> None:
    network, other = torch.nn.Linear(2, 3), torch.nn.Linear(4, 3, bias=False)
    with pytest.raises(RuntimeError) as error:
        network.load_state_dict(other.state_dict() | {"x": torch.zeros(1)})
    expected = "1 missing (bias); 1 unexpected (x); 1 of another size (weight must be (3, 2), got (3, 4))"
    assert describe_mismatch(error.value) == expected
    assert describe_mismatch(ValueError("no\ntensors")) == "no tensors"
