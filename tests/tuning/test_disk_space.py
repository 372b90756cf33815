"""Disk space that the remaining trials of a study need."""

import math

from evclip_ray.artifacts import write_json
from evclip_ray.tuning.disk_space import needed_space
from evclip_ray.tuning.study_folder import StudyFolder


def test_needed_space_covers_checkpoints_of_running_trials(tmp_path):
    folder, kib = StudyFolder(tmp_path), 1024
    assert needed_space(folder, 4, 2) == ""

    def write(trial, name, size):
        path = folder.trial(trial) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0" * size)

    def begin(trial):
        write_json(folder.trial(trial) / "point.json", {"overrides": {}})

    # A checkpoint has 100 KiB, and a whole trial two of them.
    begin("trial-0000")
    write("trial-0000", "best/adapter.safetensors", 100 * kib)
    # 4 x 200 + 2 x 800 - 100 - 4 KiB.
    assert needed_space(folder, 4, 2) == "about 2.2 MiB for 4 trials"
    write("trial-0000", "last/adapter.safetensors", 100 * kib)
    write("trial-0000", "history.jsonl", 1)
    write_json(folder.trial("trial-0000") / "result.json", {"state": "failed", "error": "x"})
    # 3 x (200 + 12) + 800 KiB.
    assert needed_space(folder, 4, 1) == "about 1.4 MiB for 3 trials"
    assert needed_space(folder, math.inf, 1) == "about 1.0 MiB per trial"
    assert needed_space(folder, 1, 1) == ""
