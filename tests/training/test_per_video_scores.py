import json
import shutil

import numpy as np
import pytest

from evclip_ray.artifacts import ArtifactError
from evclip_ray.training.checksums import CHECKSUMS
from evclip_ray.training.loop import Run
from evclip_ray.training.per_video_scores import EPOCHS_FILE, FILE, EpochAnswers, VideoScores


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


def test_answers_of_every_epoch_are_stored_as_bits(run_folder, tiny_videos):
    answers, val = EpochAnswers.read(run_folder / "last"), tiny_videos.sets["val"]
    history = [json.loads(line) for line in (run_folder / "history.jsonl").read_text().splitlines()]
    assert answers.epochs.tolist() == [1, 2, 3]
    assert answers.right.shape == (3, len(val))
    assert answers.right.mean(1) == pytest.approx([epoch["val_top1"] for epoch in history])
    assert answers.videos == val.key
    assert answers.classes.tolist() == val.labels.tolist()
    best, last = (VideoScores.read(run_folder / name) for name in ("best", "last"))
    assert (answers.right[history[-1]["best_epoch"] - 1] == best.right).all()
    # The checkpoint of a study is the last one of a trial if its objective is another one than `best`.
    assert (answers.right[-1] == last.right).all()
    assert EpochAnswers.read(run_folder / "best") is None


def test_answers_go_on_after_a_resume(run_folder, make_experiment, tiny_videos, tmp_path):
    class Stop(Exception):
        pass

    def stop_after_second(metrics):
        if metrics.epoch == 2:
            raise Stop

    experiment = make_experiment(optim__epochs=3)
    with pytest.raises(Stop):
        Run.start(experiment, tiny_videos, folder=tmp_path).fit(stop_after_second)
    Run.start(experiment, tiny_videos, folder=tmp_path).fit(lambda metrics: None)
    resumed, whole = (EpochAnswers.read(folder / "last") for folder in (tmp_path, run_folder))
    assert resumed.epochs.tolist() == [1, 2, 3]
    assert (resumed.packed == whole.packed).all()


def test_old_run_goes_on_without_earlier_answers(run_folder, make_experiment, tiny_videos, tmp_path):
    shutil.copytree(run_folder, tmp_path, dirs_exist_ok=True)
    for name in (EPOCHS_FILE, CHECKSUMS):
        (tmp_path / "last" / name).unlink()
    run = Run.start(make_experiment(optim__epochs=3), tiny_videos, folder=tmp_path)
    run.resume()
    assert run.answers is None


def test_answers_of_other_videos_are_dropped(make_experiment, tiny_videos, tmp_path):
    run = Run.start(make_experiment(optim__epochs=2), tiny_videos, folder=tmp_path)
    run.answers = EpochAnswers.empty("other", 1000, None).with_epoch(1, np.ones(1000, bool))
    run.next_epoch()
    assert run.answers.videos == tiny_videos.sets["val"].key
    assert run.answers.right.shape == (1, len(tiny_videos.sets["val"]))


def test_thousand_videos_take_125_bytes_per_epoch(tmp_path):
    right = np.random.default_rng(0).random((20, 1000)) < 0.5
    answers = EpochAnswers.empty("0123", 1000, np.arange(1000) // 5)
    for epoch, each in enumerate(right, start=1):
        answers = answers.with_epoch(epoch, each)
    assert answers.packed.nbytes == 20 * 125
    answers.write(tmp_path)
    back = EpochAnswers.read(tmp_path)
    assert (back.right == right).all()
    assert (back.groups == np.arange(1000) // 5).all()
    (tmp_path / EPOCHS_FILE).write_bytes(b"not a zip file")
    with pytest.raises(ArtifactError, match=r"validation_epochs\.npz: cannot be read"):
        EpochAnswers.read(tmp_path)
