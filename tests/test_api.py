"""The public API: names, lazy imports, and one study from `tune` to `evaluate`."""

import json
import subprocess
import sys

import pandas as pd
import pytest
import yaml

import evclip_ray
from evclip_ray.api import _keeps_videos, _run_name, _study_checkpoint
from evclip_ray.config import ConfigError
from evclip_ray.data.manifest.manifest import ManifestError


@pytest.fixture
def space(debug_settings, tiny_manifest):
    data = {
        "fixed": {**debug_settings, "optim.epochs": 1, "data.manifest": str(tiny_manifest)},
        "search": {"optim.lr": {"loguniform": [1e-3, 1e-2]}},
        "study": {"memory_gb": 0.5, "scheduler": "none"},
    }
    return evclip_ray.SearchSpace.load("tiny", data)


def test_every_public_name_can_be_imported():
    for name in evclip_ray.__all__:
        assert getattr(evclip_ray, name) is not None
    assert set(evclip_ray.__all__) <= set(dir(evclip_ray))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'tunes'"):
        _ = evclip_ray.tunes


@pytest.mark.parametrize("module", ["evclip_ray", "evclip_ray.api", "evclip_ray.cli"])
def test_import_loads_no_heavy_library(module):
    heavy = ["torch", "ray", "pandas", "numpy"] + ["pydantic"] * (module != "evclip_ray.cli")
    code = f"import json, sys, {module}; print(json.dumps([n for n in {heavy} if n in sys.modules]))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []


@pytest.mark.parametrize("command", ["tune", "train"])
def test_missing_videos_are_found_before_ray_starts(space, tmp_path, monkeypatch, command):
    def connect(*_, **__):
        raise AssertionError("Ray must not start")

    monkeypatch.setattr("evclip_ray.cluster.connect", connect)
    lines = [f"{label}{k}.mp4,{label}" for label in ("hug", "kick") for k in range(5)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines, ""]))
    given = space if command == "tune" else space.experiment({"optim.lr": 1e-3})
    with pytest.raises(ManifestError, match=r"\d+ of \d+ videos are missing; .* --root FOLDER"):
        getattr(evclip_ray, command)(
            given, data=tmp_path / "list.csv", out=tmp_path / "out", cache=tmp_path / "cache"
        )
    assert not (tmp_path / "out").exists()


def test_tune_train_and_evaluate(space, tmp_path, tiny_cache, local_ray):
    ended = []
    study = evclip_ray.tune(
        space,
        trials=2,
        out=tmp_path / "study",
        cache=tiny_cache,
        overrides={"optim.batch_size": 6},
        # One trial at a time, in one process: its imports take seconds.
        study={"cpus": 2},
        on_trial=lambda event, trial: ended.append(trial.trial) if event == "ended" else None,
    )
    assert sorted(ended) == ["trial-0000", "trial-0001"] == sorted(study.trials["trial"])
    assert (study.outcome.missing, study.outcome.interrupted) == (0, False)
    best = yaml.safe_load((study.root / "best.yaml").read_text())
    assert best["optim"]["batch_size"] == 6
    again = evclip_ray.tune(
        space, trials=2, out=tmp_path / "study", cache=tiny_cache, overrides={"optim.batch_size": 6}
    )
    pd.testing.assert_frame_equal(again.trials, study.trials)

    epochs = []
    run = evclip_ray.train(
        study.root / "best.yaml", out=tmp_path / "run", cache=tiny_cache, on_epoch=epochs.append
    )
    assert [metrics.epoch for metrics in epochs] == [1]
    result = evclip_ray.evaluate(
        [study.root / "best", run.checkpoint], cache=tiny_cache, out=tmp_path / "scores"
    )
    videos = result.videos
    assert len(videos) == 12
    top1 = (videos["adapted"] == videos["label"]).mean()
    means = result.means.set_index(["scored", "metric"])["mean"]
    assert means["adapted", "top1"] == pytest.approx(top1)
    assert (tmp_path / "scores" / "means.csv").is_file()
    assert "\n| test | 6 videos" in (study.root / "best" / "README.md").read_text()


def test_tune_reports_an_exhausted_time_budget(space, tmp_path, tiny_cache, local_ray, caplog):
    study = evclip_ray.tune(space, trials=2, time_budget=0.001, out=tmp_path / "study", cache=tiny_cache)
    assert study.outcome.out_of_time
    assert study.outcome.missing == 2
    assert "2 trials remain to be run" in caplog.text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evclip_ray.tune("quickstrat"), "did you mean 'quickstart'"),
        (
            lambda: evclip_ray.tune("quickstart", overrides={"optim.lrr": 1}),
            "did you mean 'optim.lr'",
        ),
        (lambda: evclip_ray.tune("quickstart", address="ray://a:1"), "takes jobs only"),
        (lambda: evclip_ray.evaluate("none"), "no such checkpoint folder"),
        (lambda: evclip_ray.evaluate("none", views="4"), "views must be TEMPORALxSPATIAL"),
    ],
)
def test_mistake_is_a_value_error(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        call()


def test_experiment_object_needs_a_folder(make_experiment):
    with pytest.raises(ConfigError, match="give out="):
        evclip_ray.train(make_experiment())


def test_training_of_a_study_keeps_its_splits_by_default(make_experiment, tiny_manifest, tmp_path):
    (tmp_path / "best").mkdir()
    assert _study_checkpoint(tmp_path / "best.yaml") is None
    (tmp_path / "best" / "adapter.safetensors").touch()
    record = {"experiment": make_experiment().model_dump(mode="json")}
    (tmp_path / "best" / "config.json").write_text(json.dumps(record))
    best = _study_checkpoint(tmp_path / "best.yaml")
    assert best == tmp_path / "best"
    assert _study_checkpoint(tmp_path / "mine.yaml") is None

    def keeps(**settings):
        dotted = {f"data.{name}": value for name, value in settings.items()}
        return _keeps_videos(best, make_experiment(**dotted), {"seed": 1, **dotted}, tmp_path)

    assert keeps()
    assert keeps(shots=4, world=None)
    assert not keeps(split_seed=1)
    assert not keeps(selection="last_epoch")
    # Its videos are not known to be the same: the checkpoint has no record of them.
    copied = tmp_path / "copy.csv"
    copied.write_bytes(tiny_manifest.read_bytes())
    assert not keeps(manifest=str(copied))


def test_run_of_a_study_has_its_name(tmp_path):
    assert _run_name(tmp_path / "mine" / "best.yaml") == "best"
    (tmp_path / "mine" / "trials").mkdir(parents=True)
    assert _run_name(tmp_path / "mine" / "best.yaml") == "mine"
    assert _run_name(tmp_path / "mine" / "other.yaml") == "other"
    (tmp_path / "sizes" / "rungs" / "small" / "trials").mkdir(parents=True)
    assert _run_name(tmp_path / "sizes" / "rungs" / "small" / "best.yaml") == "sizes-small"


def test_fork_of_a_run_without_record_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("data.manifest: videos.csv\n")
    with pytest.raises(ConfigError, match=r"--fork: .* has no rows.parquet.*Train in a new --out"):
        evclip_ray.train(tmp_path / "mine.yaml", out=tmp_path / "old", fork=tmp_path / "new")


def test_fork_onto_its_own_folder_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("data.manifest: videos.csv\n")
    with pytest.raises(ConfigError, match=r"--fork .*old: is the folder of --out"):
        evclip_ray.train(tmp_path / "mine.yaml", out=tmp_path / "old", fork=tmp_path / "old")
    with pytest.raises(ConfigError, match=r"--fork .*old: is the folder of --out"):
        evclip_ray.tune("debug", data="videos.csv", out=tmp_path / "old", fork=tmp_path / "old")
