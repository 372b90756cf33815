import json
import shutil

import numpy as np
import pytest

from evclip_ray.artifacts import ArtifactError
from evclip_ray.training.loop import Run
from evclip_ray.training.per_video_scores import FILE, VideoScores


@pytest.fixture(scope="module")
def run_folder(make_experiment, tiny_videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    Run.start(make_experiment(optim__epochs=3), tiny_videos, folder=folder).fit(lambda metrics: None)
    return folder


def test_best_checkpoint_stores_right_videos(run_folder, tiny_videos):
    scores, val = VideoScores.read(run_folder / "best"), tiny_videos.sets["val"]
    history = [json.loads(line) for line in (run_folder / "history.jsonl").read_text().splitlines()]
    best = history[history[-1]["best_epoch"] - 1]
    assert scores.right.shape == scores.log_loss.shape == (len(val),)
    assert scores.right.mean() == pytest.approx(best["val_top1"])
    assert scores.log_loss.mean() == pytest.approx(best["val_loss"], abs=1e-5)
    assert scores.videos == val.key
    assert VideoScores.read(run_folder / "last") is None


def test_other_videos_have_another_digest(tiny_videos):
    keys = {split: videos.key for split, videos in tiny_videos.sets.items()}
    assert len(set(keys.values())) == len(keys)


def test_missing_scores_are_none_and_damaged_ones_raise(run_folder, tmp_path):
    assert VideoScores.read(tmp_path) is None
    shutil.copy(run_folder / "best" / FILE, tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a zip file"):
        (tmp_path / FILE).write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"validation\.npz: cannot be read"):
            VideoScores.read(tmp_path)


def test_thousand_videos_take_a_few_kilobytes(tmp_path):
    rng = np.random.default_rng(0)
    scores = VideoScores("0123", rng.random(1000) < 0.5, rng.random(1000, np.float32))
    scores.write(tmp_path)
    assert (tmp_path / FILE).stat().st_size < 6000
    back = VideoScores.read(tmp_path)
    assert (back.right == scores.right).all()
    assert (back.log_loss == scores.log_loss).all()
    assert back.groups is None


def test_groups_of_videos_are_stored(tmp_path):
    groups = np.array([0, 0, 1], np.int64)
    VideoScores("0123", np.ones(3, bool), np.zeros(3, np.float32), groups).write(tmp_path)
    assert (VideoScores.read(tmp_path).groups == groups).all()
