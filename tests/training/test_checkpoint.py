import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from evclip_ray.artifacts import ArtifactError, write_json
from evclip_ray.training.build import build_method
from evclip_ray.training.checkpoint import (
    ADAPTER,
    OPTIMIZER,
    latest_checkpoint,
    load_adapter,
    read_record,
    save_checkpoint,
    set_moments,
)
from evclip_ray.training.experiment import OptimConfig
from evclip_ray.training.optim import make_optimizer

CLASSES = ("push", "pull", "spin")


@pytest.fixture
def method(make_experiment):
    return build_method(make_experiment(), CLASSES, device=torch.device("cpu"))


def test_checkpoint_restores_trained_tensors_exactly(make_experiment, method, tmp_path):
    save_checkpoint(tmp_path / "best", method, {"a": 1})
    other = build_method(make_experiment(seed=9), CLASSES, device=torch.device("cpu"))
    assert any(not torch.equal(a, b) for a, b in zip(method.parameters(), other.parameters(), strict=True))
    load_adapter(tmp_path / "best", other)
    assert all(torch.equal(a, b) for a, b in zip(method.parameters(), other.parameters(), strict=True))
    assert read_record(tmp_path / "best") == {"a": 1}


@pytest.mark.parametrize(
    ("name", "weights", "conditions", "expected"),
    [
        ("ViT-B-32", "file:0123", {}, "quickgelu"),
        ("open_clip:ViT-B-32", "file:0123", {}, "gelu"),
        ("ViT-B-32", "openai", {}, "auto"),
        ("ViT-B-32", "file:0123", {"conditions": {"activation": "gelu"}}, "auto"),
    ],
)
def test_earlier_local_weights_keep_their_activation(method, tmp_path, name, weights, conditions, expected):
    experiment = {"backbone": {"name": name, "pretrained": "weights.pt"}}
    record = {"experiment": experiment, "weights": {"clip": weights}, **conditions}
    save_checkpoint(tmp_path / "best", method, record)
    assert read_record(tmp_path / "best")["experiment"]["backbone"].get("activation", "auto") == expected


def test_adamw_moments_are_restored(method, tmp_path):
    optimizer = torch.optim.AdamW(method.parameters())
    for parameter in method.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    save_checkpoint(tmp_path / "last", method, {}, optimizer=optimizer)
    fresh = torch.optim.AdamW(method.parameters())
    set_moments(method, fresh, load_file(tmp_path / "last" / OPTIMIZER))
    for parameter in method.parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[parameter][key], fresh.state[parameter][key])


def test_moments_are_restored_into_other_groups(method, tmp_path):
    optimizer = make_optimizer(method.parameters(), OptimConfig())
    for parameter in method.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    save_checkpoint(tmp_path / "last", method, {}, optimizer=optimizer)
    grouped = make_optimizer(method.parameters(), OptimConfig(scalar_lr_factor=30))
    set_moments(method, grouped, load_file(tmp_path / "last" / OPTIMIZER))
    scale = method.context_generator.scale
    assert torch.equal(optimizer.state[scale]["exp_avg"], grouped.state[scale]["exp_avg"])
    grouped.step()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method__prompts": "context"}, "is unknown"),
        ({"method__mask__start": "open"}, "mask_generator.strength_logit is missing"),
        ({"method__mask__depth": 2}, "is missing"),
        ({"view__num_frames": 8}, r"must be \("),
    ],
)
def test_checkpoint_of_another_shape_reports_differences(make_experiment, method, tmp_path, changes, message):
    save_checkpoint(tmp_path / "best", method, {})
    other = build_method(make_experiment(**changes), CLASSES, device=torch.device("cpu"))
    with pytest.raises(ArtifactError, match=message):
        load_adapter(tmp_path / "best", other)


def test_truncated_checkpoint_is_reported(method, tmp_path):
    save_checkpoint(tmp_path / "best", method, {})
    path = tmp_path / "best" / ADAPTER
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"adapter\.safetensors: cannot be read"):
        load_adapter(tmp_path / "best", method)


def test_folder_above_a_checkpoint_names_the_one_inside(method, tmp_path):
    save_checkpoint(tmp_path / "best", method, {})
    with pytest.raises(ArtifactError, match=r"did you mean .*best"):
        read_record(tmp_path)


def test_kill_between_two_renames_loses_nothing(method, tmp_path):
    save_checkpoint(tmp_path / "last", method, {"epoch": 1})
    shutil.move(tmp_path / "last", tmp_path / ".last.old")
    latest = latest_checkpoint(tmp_path / "last")
    assert json.loads((latest / "config.json").read_text()) == {"epoch": 1}
    save_checkpoint(tmp_path / "last", method, {"epoch": 2})
    assert read_record(latest_checkpoint(tmp_path / "last")) == {"epoch": 2}


def test_checkpoint_is_readable_by_others(method, tmp_path):
    save_checkpoint(tmp_path / "best", method, {})
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "best").iterdir()}
    assert modes == {0o644}


def test_record_has_the_location_that_its_study_has_now(method, tmp_path):
    data = {"manifest": "list.csv", "root": "old", "label_column": "verb", "shots": 4}
    folder = tmp_path / "trials" / "trial-0000" / "best"
    save_checkpoint(folder, method, {"experiment": {"data": data}})
    write_json(tmp_path / "ledger.json", {"inputs": {"search": {"data.label_column": "choice(verb, noun)"}}})
    for root in ("old", "new"):
        write_json(tmp_path / "fixed.json", {"data": {"manifest": "list.csv", "root": root}})
        # The list stays, and its videos move. The searched column is that of the trial.
        assert read_record(folder)["experiment"]["data"] == {**data, "root": root}
