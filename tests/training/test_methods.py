"""Training loop with every method (loop.py, checkpoint.py)."""

import pytest
import torch
from host_reads import HostReads
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


@pytest.mark.parametrize("name", ["ev_clip", "coop", "ez_clip"])
def test_validation_reads_are_as_many_for_any_batch_size(name, make_experiment, tiny_videos, tmp_path):
    settings = make_experiment().model_dump(mode="json")
    if name != "ev_clip":
        settings |= {"method": {"name": name}}
    counts = []
    for size in (2, 6):
        experiment = ExperimentConfig.load(
            {**settings, "optim": {**settings["optim"], "eval_batch_size": size}}
        )
        module = build_method(experiment, tiny_videos.classes, device=torch.device("cpu"))
        run = Run(experiment, tiny_videos, module, folder=tmp_path / str(size))
        with HostReads() as reads:
            run.validate()
            run.validate.watch.finish()
            run.validate()
        counts.append(reads.count)
    assert counts[0] == counts[1]
    # Logits, masks and pictures of two passes, and one comparison of each trained tensor of the texts.
    assert counts[0] <= 10 + len(list(module.parameters()))


def test_batches_of_ez_clip_name_their_classes(make_experiment, tiny_videos, tmp_path):
    experiment = make_experiment().model_dump(mode="json") | {"method": {"name": "ez_clip"}}
    run = Run.start(ExperimentConfig.load(experiment), tiny_videos, folder=tmp_path)
    batch = next(run.batches["train"]([[3, 0, 4]], generator=torch.Generator()))
    assert torch.equal(batch.classes, batch.labels.unique())
    assert next(run.batches["val"]([[0]])).classes is None
