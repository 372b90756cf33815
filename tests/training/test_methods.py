"""Training loop with every method (loop.py, checkpoint.py)."""

import pytest
import torch
from safetensors.torch import load_file

from evclip_ray.models.methods import METHODS
from evclip_ray.training.build import build_method
from evclip_ray.training.checkpoint import load_adapter
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.loop import Run

TRAINED = sorted(set(METHODS) - {"zero_shot"})


@pytest.mark.parametrize("name", TRAINED)
def test_methods_train_validate_and_save_in_the_loop(name, make_experiment, tiny_videos, tmp_path):
    settings = make_experiment(optim__epochs=2, optim__lr=1e-3).model_dump(mode="json")
    method = {"name": name}
    if name == "ev_clip":
        method = settings["method"]
    experiment = ExperimentConfig.load({**settings, "method": method})
    reported = []
    module = build_method(experiment, tiny_videos.classes, device=torch.device("cpu"))
    Run(experiment, tiny_videos, module, folder=tmp_path).fit(reported.append)
    assert [metrics["epoch"] for metrics in reported] == [1, 2]
    assert not any(metrics.diverged for metrics in reported)
    fresh = build_method(experiment, tiny_videos.classes, device=torch.device("cpu"))
    load_adapter(tmp_path / "last", fresh)
    saved = load_file(tmp_path / "last" / "adapter.safetensors")
    assert set(saved) == set(module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), fresh.parameters(), strict=True))
