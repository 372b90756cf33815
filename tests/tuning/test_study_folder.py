"""Repeated reading of the trials in a study's folder."""

import json

import pytest

from evclip_ray.tuning import study_folder
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
    history = study_folder.read_history
    monkeypatch.setattr(
        study_folder, "read_history", lambda path: read.append(path.parent.name) or history(path)
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
