import dataclasses
import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from evclip_ray.artifacts import write_json
from evclip_ray.training.cross_validation import folds_of, start_run
from evclip_ray.training.per_video_scores import EpochAnswers, VideoScores

FOLDS = 2


@pytest.fixture(scope="module")
def videos(tiny_videos):
    """Return the tiny training videos, to be scored in two folds."""
    train = tiny_videos.sets["train"]
    sets = {"train": train, "val": train}
    return dataclasses.replace(tiny_videos, sets=sets, selection="last_epoch", folds=FOLDS)


@pytest.fixture(scope="module")
def experiment(make_experiment):
    return make_experiment(data__selection="last_epoch", optim__epochs=3)


def fit(experiment, videos, folder, report=lambda metrics: None):
    return start_run(experiment, videos, folder=folder, device=torch.device("cpu")).fit(report)


def history(folder):
    lines = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
    measured = ("seconds", "_share")
    return [{name: line[name] for name in line if not name.endswith(measured)} for line in lines]


@pytest.fixture(scope="module")
def whole(experiment, videos, tmp_path_factory):
    """Return the folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    fit(experiment, videos, folder)
    return folder


def test_every_training_video_is_scored_out_of_fold(whole, videos):
    last = history(whole)[-1]
    assert last["val_videos"] == last["train_videos"] == len(videos.sets["train"])
    assert (last["selection"], last["folds"]) == ("last_epoch", FOLDS)
    scores = VideoScores.read(whole / "best")
    assert scores.videos == videos.sets["train"].key
    assert scores.right.mean() == pytest.approx(last["val_top1"])
    assert EpochAnswers.read(whole / "last").right[-1].tolist() == scores.right.tolist()
    # Each fold has its own history, over the part that it does not train on.
    parts = [history(whole / f"fold-{number}") for number in range(FOLDS)]
    assert sum(part[-1]["val_videos"] for part in parts) == len(videos.sets["train"])
    for part in parts:
        assert part[-1]["val_videos"] + part[-1]["train_videos"] == len(videos.sets["train"])
    assert not (whole / "fold-0" / "best").exists()


def test_best_checkpoint_is_the_last_epoch_on_all_shots(whole, experiment, videos, tmp_path):
    metrics = history(whole)
    assert [epoch["best_epoch"] for epoch in metrics] == [1, 2, 3]
    assert [epoch["best_val_top1"] for epoch in metrics] == [epoch["val_top1"] for epoch in metrics]
    alone = dataclasses.replace(videos, sets={"train": videos.sets["train"]}, folds=0)
    fit(experiment, alone, tmp_path)
    best, same = (load_file(folder / "best" / "adapter.safetensors") for folder in (whole, tmp_path))
    assert all(torch.equal(best[name], same[name]) for name in best), "folds do not change the model"


def test_run_without_validation_videos_has_no_score(experiment, videos, tmp_path):
    alone = dataclasses.replace(videos, sets={"train": videos.sets["train"]}, folds=0)
    last = fit(experiment, alone, tmp_path)
    assert (last.best_epoch, last.val_videos) == (3, 0)
    assert np.isnan(last.val_top1)
    assert last["best_val_top1"] is last["zero_shot_top1"] is None
    assert not (tmp_path / "zero_shot.json").exists()
    assert (tmp_path / "best" / "adapter.safetensors").is_file()


class Killed(BaseException):
    """End of the process."""


@pytest.mark.parametrize("moment", ["between epochs", "between folds"])
def test_interrupted_folds_resume_identically(moment, whole, experiment, videos, tmp_path):
    run = start_run(experiment, videos, folder=tmp_path, device=torch.device("cpu"))
    if moment == "between epochs":

        def kill(metrics):
            if metrics.epoch == 1:
                raise Killed

        with pytest.raises(Killed):
            run.fit(kill)
    else:
        second = run.validate._folds[1].run
        train = second._train
        second._train = lambda epoch: (_ for _ in ()).throw(Killed) if epoch == 1 else train(epoch)
        with pytest.raises(Killed):
            run.fit(lambda metrics: None)
        # The first fold is one epoch ahead of the run on all videos.
        assert [len(history(tmp_path / name)) for name in (".", "fold-0", "fold-1")] == [1, 2, 1]
    fit(experiment, videos, tmp_path)
    assert_equal_runs(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [["."], ["fold-0"], ["fold-1", "."]])
def test_damaged_folds_resume_identically(damaged, whole, experiment, videos, tmp_path):
    def kill(metrics):
        if metrics.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(experiment, videos, tmp_path, kill)
    # Both states that a run keeps. The other runs are then ahead of it.
    for folder in damaged:
        for name in ("last", ".last.old"):
            (tmp_path / folder / name / "adapter.safetensors").write_bytes(b"")
    fit(experiment, videos, tmp_path)
    assert_equal_runs(whole, tmp_path)


def assert_equal_runs(whole, resumed):
    assert history(resumed) == history(whole)
    best, same = (load_file(folder / "best" / "adapter.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(best[name], same[name]) for name in best)
    scores, other = VideoScores.read(whole / "best"), VideoScores.read(resumed / "best")
    assert scores.log_loss.tolist() == other.log_loss.tolist()


_FIT = """
import sys
from pathlib import Path
import torch
from evclip_ray.artifacts import read_json
from evclip_ray.training.cross_validation import start_run
from evclip_ray.training.datamodule import Videos
from evclip_ray.training.experiment import ExperimentConfig
given, folder = map(Path, sys.argv[1:])
experiment = ExperimentConfig.load(read_json(given / "experiment.json"))
videos = Videos.load(given / "videos.json")
start_run(experiment, videos, folder=folder, device=torch.device("cpu")).fit(print)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1])
def test_killed_folds_resume_identically(delay, whole, experiment, videos, tmp_path):
    videos.save(tmp_path / "videos.json")
    write_json(tmp_path / "experiment.json", experiment.model_dump(mode="json"))
    folder = tmp_path / "run"
    # SIGKILL during the first epoch of the folds, then after the first epoch of the run on all videos.
    for written in (folder / "fold-0" / "history.jsonl", folder / "history.jsonl"):
        child = subprocess.Popen(
            [sys.executable, "-c", _FIT, str(tmp_path), str(folder)], stdout=subprocess.DEVNULL
        )
        while not written.is_file():
            assert child.poll() is None, "the run ended before it was killed"
            time.sleep(0.002)
        time.sleep(delay)
        child.kill()
        child.wait()
    fit(experiment, videos, folder)
    assert_equal_runs(whole, folder)


def test_diverged_fold_ends_the_trial(make_experiment, videos, tmp_path):
    experiment = make_experiment(data__selection="last_epoch", optim__epochs=2)
    run = start_run(experiment, videos, folder=tmp_path, device=torch.device("cpu"))
    fold = run.validate._folds[1].run
    fold.next_epoch = lambda: fold._finish_epoch({"diverged": True}, None, 0.0)
    last = run.fit(lambda metrics: None)
    assert last.diverged


def test_folds_are_those_of_the_split_seed(videos):
    first, second = (folds_of(videos, seed=seed).tolist() for seed in (0, 1))
    assert first == folds_of(videos, seed=0).tolist() != second
