"""Repeated reading of the trials in a study's folder."""

import json
import math
import os
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from evclip_ray.artifacts import ArtifactError
from evclip_ray.records import TrialState
from evclip_ray.tuning import trial_folder
from evclip_ray.tuning.study_folder import StudyFolder


@pytest.fixture
def folder(tmp_path):
    folder = StudyFolder(tmp_path)
    for number in range(3):
        name = f"trial-{number:04d}"
        folder.begin(name, {"optim.lr": number})
        write_history(folder, name, epochs=2)
    return folder


def write_history(folder, name, *, epochs):
    lines = [
        json.dumps({"epoch": epoch + 1, "val_top1": 0.5, "val_videos": 4, "seconds": 1.0})
        for epoch in range(epochs)
    ]
    (folder.trial(name) / "history.jsonl").write_text("\n".join(lines) + "\n")


def states(folder):
    return {trial.trial: (trial.state, len(trial.history)) for trial in folder.trials()}


def test_ended_trial_is_read_once(folder, monkeypatch):
    folder.finish("trial-0000", "complete")
    folder.finish("trial-0001", "stopped")
    read = []
    history = trial_folder.read_history
    monkeypatch.setattr(
        trial_folder, "read_history", lambda path: read.append(path.parent.name) or history(path)
    )
    for _ in range(3):
        assert states(folder)["trial-0000"] == ("complete", 2)
    assert read == ["trial-0002"] * 3


def test_later_writes_are_read(folder):
    folder.finish("trial-0000", "stopped")
    assert states(folder)["trial-0000"] == ("stopped", 2)
    write_history(folder, "trial-0000", epochs=3)
    assert states(folder)["trial-0000"] == ("stopped", 3)
    folder.begin("trial-0000", {"optim.lr": 0})
    assert states(folder)["trial-0000"] == ("running", 3)
    folder.finish("trial-0000", "failed", "why")
    assert states(folder)["trial-0000"] == ("failed", 3)


def test_writes_after_the_clock_was_set_back_are_read(folder):
    folder.finish("trial-0000", "stopped")
    assert states(folder)["trial-0000"] == ("stopped", 2)
    write_history(folder, "trial-0000", epochs=3)
    os.utime(folder.trial("trial-0000") / "history.jsonl", (1, 1))
    assert states(folder)["trial-0000"] == ("stopped", 3)


def checkpoint(folder, name, text):
    """Write the files of a checkpoint with a text in its tensors."""
    folder = folder / name
    folder.mkdir()
    save_file({"a": np.frombuffer(text.encode(), np.uint8)}, folder / "adapter.safetensors")
    save_file({"a": np.zeros(1)}, folder / "optimizer.safetensors")
    (folder / "config.json").write_text('{"experiment": {}}')


@pytest.mark.parametrize(("objective", "delivered"), [(None, "best"), ("best", "best"), ("last", "last")])
def test_delivered_checkpoint_belongs_to_the_objective(tmp_path, objective, delivered):
    folder = StudyFolder(tmp_path)
    # A ledger of an earlier version has no objective.
    folder.claim({"seed": 0}, **({"objective": objective} if objective else {}))
    for name, scores in {"trial-0000": [0.5, 0.25], "trial-0001": [0.25, 0.375]}.items():
        folder.begin(name, {"optim.lr": len(name)})
        lines = [
            {"epoch": e, "val_top1": s, "best_val_top1": max(scores[:e]), "val_loss": 1.0, "seconds": 1.0}
            | {"best_epoch": 1 + scores.index(max(scores[:e])), "val_videos": 8}
            for e, s in enumerate(scores, start=1)
        ]
        (folder.trial(name) / "history.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
        for kind in ("best", "last"):
            checkpoint(folder.trial(name), kind, f"{name} {kind}")
        folder.finish(name, TrialState.COMPLETE)
    first = {"best": ("trial-0000", 0.5), "last": ("trial-0001", 0.375)}[delivered]
    row = folder.write_leaderboard()[0]
    assert (row.trial, row.val_top1) == first
    copied = load_file(tmp_path / "best/adapter.safetensors")["a"].tobytes().decode()
    assert copied == f"{first[0]} {delivered}"
    assert not (tmp_path / "best/optimizer.safetensors").exists()
    folder.check_objective(objective or "best")
    with pytest.raises(ArtifactError, match=r"mean_of_last_3.*--objective"):
        folder.check_objective("mean_of_last_3")


def test_idle_time_counts_from_the_latest_epoch(folder, tmp_path):
    now = time.time()
    for number, age in enumerate((500, 100, 900)):
        os.utime(folder.trial(f"trial-{number:04d}") / "history.jsonl", (now - age, now - age))

    assert folder.idle_seconds() == pytest.approx(100, abs=60)
    assert StudyFolder(tmp_path / "new").idle_seconds() == math.inf
