from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evclip_ray.artifacts import read_json, write_json
from evclip_ray.training import zero_shot
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.zero_shot import zero_shot_numbers

HERE = {"precision": "float32", "device": "cpu"}


@pytest.fixture
def is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that stores a number under conditions, and returns whether it is computed again."""
    monkeypatch.setattr(zero_shot, "score_zero_shot", lambda *_, **__: (None, {"clip": "random"}))
    monkeypatch.setattr(zero_shot, "summary", lambda *_: {"top1": 0.5})
    videos = SimpleNamespace(row_keys={"val": "rows"}, sets={"val": SimpleNamespace(groups=None)})

    def check(**stored: object) -> bool:
        path = tmp_path / "zero_shot.json"
        write_json(path, {"top1": 0.25, "rows": "rows", **stored})
        experiment = ExperimentConfig.load({"data": {"manifest": "a.csv"}, "method": {"name": "coop"}})
        numbers = zero_shot_numbers(path, experiment, videos, device=torch.device("cpu"))
        assert numbers == read_json(path)
        return numbers["top1"] == 0.5

    return check


def test_number_of_the_same_conditions_is_reused(is_computed) -> None:
    assert not is_computed(conditions=HERE)
    assert not is_computed(), "earlier versions stored no conditions"


@pytest.mark.parametrize("changed", [{"precision": "bfloat16"}, {"device": "cuda NVIDIA H100"}])
def test_number_of_other_conditions_is_computed_again(is_computed, changed: dict[str, str]) -> None:
    assert is_computed(conditions={**HERE, **changed})


def test_number_of_other_videos_is_computed_again(is_computed) -> None:
    assert is_computed(conditions=HERE, rows="others")
