"""The commands as a person meets them: what they print, what they refuse, how they exit."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from evclip_ray.cli import main


@pytest.fixture
def call(tiny_cache):
    def run(*arguments):
        return CliRunner().invoke(
            main, [str(a) for a in arguments], env={"EVCLIP_RAY_CACHE": str(tiny_cache)}
        )

    return run


@pytest.fixture
def space(tmp_path, debug_settings, tiny_manifest):
    """A search space file on the tiny videos."""
    path = tmp_path / "tiny.yaml"
    content = {
        "fixed": {**debug_settings, "data.manifest": str(tiny_manifest)},
        "search": {"optim.lr": {"loguniform": [1e-3, 1e-2]}},
        "study": {"trials": 2, "memory_gb": 0.5, "scheduler": "none"},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def commands(group=main, prefix=()):
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name)


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_help_ends_with_an_example_of_that_command(path, call):
    result = call(*path, "--help")
    assert result.exit_code == 0
    last = result.output.strip().splitlines()[-1].strip()
    assert last.startswith("evclip-ray " + " ".join(path))


def test_the_commands_are_there():
    assert {path[0] for path in commands()} >= {"check", "manifest", "shards", "train", "tune", "evaluate"}


def test_check_lists_versions_and_shipped_spaces(call):
    result = call("check")
    assert result.exit_code == 0
    for word in ("torch", "ray", "decoder", "quickstart: valid", "ev_clip: valid"):
        assert word in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tune", "quickstrat"), "nearest valid name is 'quickstart'"),
        (("tune", "debug"), "data needs a manifest"),
        (("tune", "debug", "--data", "none.csv"), "none.csv"),
        (("tune", "quickstart", "--set", "optim.lrr=1"), "nearest valid name is 'optim.lr'"),
        (("tune", "quickstart", "--set", "optim.lr"), "PATH=VALUE"),
        (("tune", "quickstart", "--set", "backbone.name=ViT-B-61"), "nearest valid name is 'ViT-B-16'"),
        (("tune", "quickstart", "--set", "method.name=ev_klip"), "nearest valid name is 'ev_clip'"),
        (("train", "none.yaml"), "none.yaml: cannot be read"),
        (("evaluate", "."), "must be a checkpoint folder"),
        (("manifest", "verify", "none.csv"), "none.csv"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_cure(call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 1
    lines = result.output.strip().splitlines()
    assert len(lines) == 1, result.output
    assert lines[0].startswith("Error: ")
    assert message in lines[0]


def test_pack_option_names_the_replacement(call):
    result = call("tune", "quickstart", "--pack", "4")
    assert result.exit_code == 2
    assert result.output.strip().splitlines()[-1] == (
        "Error: `--pack`: trial packing was removed. "
        "Let trials share a GPU with --gpus-per-worker 0.25 (four trials per GPU)."
    )
    assert "--pack" not in call("tune", "--help").output


def test_verify_names_the_broken_video_and_exits_with_1(call, tiny_manifest, tmp_path):
    whole = call("manifest", "verify", tiny_manifest)
    assert whole.exit_code == 0
    assert "30 videos, 6 labels, 0 broken" in whole.output
    with tiny_manifest.open() as stream:
        paths = [row["path"] for row in csv.DictReader(stream)]
    shutil.copytree(tiny_manifest.parent, tmp_path / "copy")
    (tmp_path / "copy" / paths[2]).write_bytes(b"not a video")
    (tmp_path / "copy" / paths[4]).unlink()
    broken = call("manifest", "verify", tmp_path / "copy" / "manifest.csv")
    assert broken.exit_code == 1
    assert f"broken  {paths[2]}: " in broken.output
    assert f"broken  {paths[4]}: " in broken.output
    assert "30 videos, 6 labels, 2 broken" in broken.output


def test_a_dry_run_prints_trials_resources_and_cost_and_writes_no_study(call, space, tmp_path, local_ray):
    result = call("tune", space, "--dry-run", "--out", tmp_path / "study", "--trials", "5")
    assert result.exit_code == 0, result.output
    for words in (
        "5 of 5 to run",
        "18 train, 6 val",
        "a trial; 2 at once",
        "GFLOP",
        "at most",
        "optim.lr: loguniform",
    ):
        assert words in result.output
    assert not (tmp_path / "study").exists()


def test_shards_decodes_once_and_says_where(call, tiny_manifest, local_ray):
    arguments = (
        "shards",
        "--data",
        tiny_manifest,
        "--split",
        "val",
        "--set",
        "view.num_frames=2",
        "--set",
        "view.height=32",
    )
    first, second = call(*arguments), call(*arguments)
    assert first.exit_code == second.exit_code == 0
    assert "val: 6 videos, 0 skipped" in first.output
    folder = Path(second.output.split(" in ")[-1].strip())
    assert (folder / "ledger.json").is_file()


def test_a_study_can_be_trained_evaluated_and_its_test_openings_are_counted(call, space, tmp_path, local_ray):
    study = tmp_path / "study"
    tuned = call("tune", space, "--out", study)
    assert tuned.exit_code == 0, tuned.output
    assert "Leaderboard" in tuned.output
    assert "RANDOM WEIGHTS" in tuned.output
    assert f"tensorboard --logdir {study}" in tuned.output
    trained = call("train", study / "best.yaml", "--set", "optim.epochs=1", "--out", tmp_path / "run")
    assert trained.exit_code == 0, trained.output
    assert "best epoch 1" in trained.output
    for openings in (1, 2):
        scored = call("evaluate", study / "best", "--split", "test", "--out", tmp_path / "scores")
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


def test_a_run_that_diverges_at_once_says_so_instead_of_a_score(
    call, debug_settings, tiny_manifest, tmp_path, local_ray
):
    config = tmp_path / "wild.yaml"
    # Without warmup and clipping the first epoch already leads out of float32.
    wild = {"optim.lr": 1e30, "optim.warmup_epochs": 0, "optim.clip_norm": None}
    config.write_text(yaml.safe_dump({**debug_settings, "data.manifest": str(tiny_manifest), **wild}))
    trained = call("train", config, "--out", tmp_path / "run")
    assert trained.exit_code == 1, trained.output
    assert "diverged" in trained.output
    assert "lower optim.lr and give another --out" in trained.output
    assert "top-1" not in trained.output
    assert not (tmp_path / "run" / "best").exists()


def test_nothing_of_the_test_split_is_decoded_by_a_study(call, space, tmp_path, tmp_path_factory, local_ray):
    cache = tmp_path_factory.mktemp("own-cache")
    tuned = call("tune", space, "--out", tmp_path / "study", "--trials", "1", "--cache", cache)
    assert tuned.exit_code == 0, tuned.output
    splits = set()
    for ledger in cache.glob("shards/*/ledger.json"):
        from evclip_ray.data.shards.prepare import open_shards

        splits |= set(open_shards(ledger.parent).splits)
    assert splits == {"train", "val"}


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_prints_the_command_that_goes_on(space, tmp_path, tiny_cache):
    study = tmp_path / "study"
    command = [
        str(Path(sys.executable).with_name("evclip-ray")), "tune", str(space), "--out", str(study),
        "--cache", str(tiny_cache), "--trials", "2", "--set", "optim.epochs=15",
    ]  # fmt: skip
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
    assert process.returncode == 130, rest
    assert "Go on with:" in rest
    assert "evclip-ray tune" in rest
    assert "Traceback" not in rest
    kept = len(history.read_text().splitlines())
    assert 1 <= kept < 15
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    with (study / "leaderboard.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epochs"] for row in rows] == ["15"] * 2
    epochs = [json.loads(line)["epoch"] for line in history.read_text().splitlines()]
    assert epochs == list(range(1, 16))


def test_a_time_that_is_no_time_is_refused(call):
    result = call("tune", "debug", "--time-budget", "90")
    assert result.exit_code == 2
    assert "must be a time like 90m, 2h30m or 1d, got '90'" in result.output


def test_a_dry_run_says_what_the_frozen_work_and_a_trial_cost_and_what_fits(call, space, tmp_path, local_ray):
    result = call(
        "tune", space, "--dry-run", "--out", tmp_path / "study", "--set", "data.bank=2",
        "--time-budget", "2h30m", "--price-per-hour", "3",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for words in ("video_map of 42 views", "CPU-hours", "at 3 an hour", "2.5 h: about 2 trials"):
        assert words in result.output


def test_a_study_that_runs_out_of_time_exits_with_0_and_says_what_is_left(call, space, tmp_path, local_ray):
    result = call("tune", space, "--out", tmp_path / "study", "--time-budget", "0.001s")
    assert result.exit_code == 0, result.output
    assert "the time is up: 0 trials are paused at an epoch; 2 trials are still to be run" in result.output


def test_trials_that_are_missing_without_an_interrupt_are_an_error(
    call, space, tmp_path, local_ray, monkeypatch
):
    from evclip_ray.tuning.tuner import Outcome, StudyRun

    monkeypatch.setattr(StudyRun, "run", lambda *arguments: Outcome([], missing=2))
    result = call("tune", space, "--out", tmp_path / "study")
    assert result.exit_code == 1
    assert "2 of 2 trials were not run, although nothing interrupted them" in result.output
