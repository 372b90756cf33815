"""The command `tune`, and `train` and `evaluate` on the study that it makes."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from evclip_ray.artifacts import read_json
from evclip_ray.cli.tune import ended_trials
from evclip_ray.data.shards.prepare import open_shards
from evclip_ray.training.checkpoint_record import read_record
from evclip_ray.tuning.tuner import Outcome, StudyRun


def test_dry_run_prints_the_plan_and_writes_nothing(call, space, tmp_path, local_ray):
    # Brackets are neither markup nor lost.
    out = tmp_path / "[x] run[/b]"
    result = call("tune", space, "--dry-run", "--out", out, "--trials", "5")
    assert result.exit_code == 0, result.output
    plan = (
        f"in {out}",
        "5 of 5 to run",
        "18 train, 6 val",
        "a trial; 2 at once",
        "GFLOP",
        "at most",
        "optim.lr: loguniform",
    )
    for words in plan:
        assert words in result.output
    assert not out.exists()


def test_dry_run_prints_cost_and_trials_within_budget(call, space, tmp_path, local_ray):
    options = ("--set", "data.bank=2", "--time-budget", "2h30m", "--price-per-hour", "3")
    result = call("tune", space, "--dry-run", "--out", tmp_path / "study", *options)
    assert result.exit_code == 0, result.output
    for words in ("video_map of 42 views", "CPU-hours", "at 3 per hour", "2.5 h: about 2 trials"):
        assert words in result.output


def test_duration_without_unit_is_refused(call):
    result = call("tune", "debug", "--time-budget", "90")
    assert result.exit_code == 2
    assert "must be a duration such as 90m, 2h30m or 1d, got '90'" in result.output


def curve(run):
    """Return the validation loss and accuracy of each epoch of a run."""
    epochs = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [(epoch["train_loss"], epoch["val_loss"], epoch["val_top1"]) for epoch in epochs]


def test_study_can_be_trained_and_evaluated(call, space, tmp_path, local_ray, monkeypatch):
    study, cache = tmp_path / "study", tmp_path / "cache"
    tuned = call("tune", space, "--out", study, "--cache", cache)
    assert tuned.exit_code == 0, tuned.output
    decoded = [set(open_shards(ledger.parent).splits) for ledger in cache.glob("shards/*/ledger.json")]
    assert set().union(*decoded) == {"train", "val"}, "the test split is not decoded"
    assert "Leaderboard" in tuned.output
    assert "optimistic  top-1" in tuned.output
    # The tiny validation split has one video per class, all with the same figure and background.
    reason = "missing: all validation videos are of one group"
    assert reason in tuned.output
    assert f"# corrected for the choice: {reason}" in (study / "best.yaml").read_text()
    assert "RANDOM WEIGHTS" in tuned.output
    assert f"tensorboard --logdir {study}" in tuned.output
    monkeypatch.chdir(tmp_path)
    trained = call("train", study / "best.yaml", "--cache", cache)
    assert trained.exit_code == 0, trained.output
    assert "best epoch" in trained.output
    # The same numbers to the last digit: the run has the name of the study, and the threads of the trial.
    assert "other conditions" not in trained.output
    trial = read_record(study / "best")
    assert trial["compute"]["threads"] == 1
    ran = next(
        curve(path.parent)
        for path in study.glob("trials/*/history.jsonl")
        if read_record(path.parent / "last")["experiment"] == trial["experiment"]
    )
    assert curve(tmp_path / "runs" / "study") == ran
    other = call("train", study / "best.yaml", "--cache", cache, "--set", "optim.epochs=1")
    assert (
        "runs/study: holds a run of another experiment (begun with -> given: optim.epochs: " in other.output
    )
    for openings in (1, 2):
        options = ("--split", "test", "--cache", cache)
        scored = call("evaluate", study / "best", *options, "--out", tmp_path / "scores")
        assert scored.exit_code == 0, scored.output
        assert "zero-shot CLIP" in scored.output
        ledger = json.loads((tmp_path / "scores" / "ledger.json").read_text())
        assert ledger["openings"] == openings
    with (tmp_path / "scores" / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6
    hits = sum(row["adapted"] == row["label"] for row in rows)
    assert ledger["adapted"]["top1"] == pytest.approx(hits / 6)
    with (tmp_path / "scores" / "confusion.csv").open() as stream:
        table = list(csv.reader(stream))
    assert sum(int(cell) for row in table[1:] for cell in row[1:]) == 6


@pytest.mark.slow
def test_moved_list_goes_on_and_other_videos_do_not(call, space, tiny_manifest, tmp_path, local_ray, caplog):
    study = tmp_path / "study"

    def tune(folder, *options):
        manifest = tmp_path / folder / tiny_manifest.name
        return call("tune", space, "--data", manifest, "--out", study, *options)

    shutil.copytree(tiny_manifest.parent, tmp_path / "a")
    assert tune("a", "--trials", "1").exit_code == 0
    (tmp_path / "a").rename(tmp_path / "b")
    more = tune("b", "--trials", "2")
    assert more.exit_code == 0, more.output
    trials = [read_record(folder / "last") for folder in sorted(study.glob("trials/trial-*"))]
    assert [trial["experiment"]["data"]["manifest"] for trial in trials] == [
        str(tmp_path / "b" / tiny_manifest.name)
    ] * 2
    assert trials[0]["rows"] == trials[1]["rows"]
    # Also of a finished study, whose checkpoints then name the new place.
    (tmp_path / "b").rename(tmp_path / "c")
    assert tune("c", "--trials", "2").exit_code == 0
    assert str(tmp_path / "c") in (study / "best.yaml").read_text()
    scored = call("evaluate", study / "best", "--split", "val", "--out", tmp_path / "scores")
    assert scored.exit_code == 0, scored.output
    # Other conditions than those of the trial are named before the training.
    two = call("train", study / "best.yaml", "--cpus-per-worker", "2", "--out", tmp_path / "two")
    assert two.exit_code == 0, two.output
    assert "under other conditions, so that the numbers may differ: threads: 1 -> 2" in caplog.text
    shutil.copytree(tmp_path / "c", tmp_path / "d")
    for video in (tmp_path / "d").rglob("*.mp4"):
        video.write_bytes(video.read_bytes() + b"other")
    refused = tune("d", "--trials", "3")
    assert refused.exit_code == 1
    assert "its videos are not those that it began with" in refused.output


def test_fewer_trials_than_have_ended_are_said():
    assert ended_trials(3, 3) == "all 3 trials have ended; a larger --trials adds some"
    assert ended_trials(3, 1).startswith("3 trials have ended, more than the 1 requested; a larger --trials")


def test_exhausted_time_budget_exits_with_0(call, space, tmp_path, local_ray, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evclip-ray", "tune", "my space"])
    result = call("tune", space, "--out", tmp_path / "study", "--time-budget", "0.001s")
    assert result.exit_code == 0, result.output
    assert "the time budget is used up: 0 trials are paused, 2 trials remain to be run" in result.output
    # The report of the study prints it.
    assert read_json(tmp_path / "study" / "ledger.json")["command"] == "evclip-ray tune 'my space'"


def test_missing_trials_without_interrupt_are_an_error(call, space, tmp_path, local_ray, monkeypatch):
    monkeypatch.setattr(StudyRun, "run", lambda *arguments: Outcome([], missing=2))
    result = call("tune", space, "--out", tmp_path / "study")
    assert result.exit_code == 1
    assert "2 of 2 trials were not run although nothing interrupted the study" in result.output


@pytest.mark.slow
def test_ctrl_c_keeps_finished_epochs_and_prints_how_to_resume(space, tmp_path, tiny_cache):
    study = tmp_path / "study"
    command = [
        *(sys.executable, "-m", "evclip_ray", "tune", str(space), "--out", str(study)),
        *("--cache", str(tiny_cache), "--trials", "2", "--set", "optim.epochs=15"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("  resources"):
                break
        history = study / "trials" / "trial-0000" / "history.jsonl"
        for _ in range(600):
            if history.is_file():
                break
            signal.sigtimedwait([], 0.1)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130, "".join(lines) + rest
    assert "Resume with:" in rest
    assert "evclip-ray tune" in rest
    assert "Traceback" not in rest
    num_epochs = len(history.read_text().splitlines())
    assert 1 <= num_epochs < 15
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    # Without a terminal each stage is one line, and no line has control characters.
    stages = [line for line in again.stderr.splitlines() if line.endswith(" ...")]
    named = ["loading PyTorch ...", "loading Ray ...", "reading the list ...", "starting Ray ..."]
    assert stages[: len(named)] == named
    assert stages[-2:] == ["writing the leaderboard ...", "stopping Ray ..."]
    assert len(set(stages)) == len(stages)
    assert re.search(
        r"^  resumed +\d finished trials? (is|are) kept, trial-0000 goes on at epoch", again.stdout, re.M
    )
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", again.stdout + again.stderr)
    with (study / "leaderboard.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epochs"] for row in rows] == ["15"] * 2
    epochs = [json.loads(line)["epoch"] for line in history.read_text().splitlines()]
    assert epochs == list(range(1, 16))
