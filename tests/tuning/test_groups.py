"""Trials of several workers (Ray Train inside Tune) on real processes."""

import json
import os
import signal
import subprocess
import threading
import time

import pytest
from reservations import reserved

from evclip_ray.cluster import connect
from evclip_ray.training.ray_trainer import train_distributed
from evclip_ray.training.resources import GIB, ResourceRequest
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.tuner import StudyRun

# Trials of several workers need a Ray with a dashboard, which the shared one does not have.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("without_ray")]


def test_stopped_two_worker_trial_frees_its_resources(
    tiny_manifest, tiny_cache, tiny_videos, debug_settings, tmp_path
):
    data = {
        "fixed": {"data.manifest": str(tiny_manifest), **debug_settings, "optim.epochs": 4},
        "search": {"optim.lr": {"loguniform": [1e-4, 1e-1]}},
        "study": {"trials": 4, "workers": 2, "memory_gb": 0.5, "grace_epochs": 1, "reduction_factor": 2},
    }
    study = StudyRun(SearchSpace.load("groups", data), tmp_path / "study", cache=tiny_cache)
    with connect(num_cpus=2, dashboard=True) as machines:
        plan = study.plan(machines)
        assert plan.concurrent == 1
        study.claim()
        study.prepare()
        outcome = study.run(plan, lambda *event: None)
    assert outcome.missing == 0
    assert {row.state for row in outcome.rows} <= {"complete", "stopped"}
    assert any(row.state == "complete" and row.epochs == 4 for row in outcome.rows)
    assert (tmp_path / "study" / "best" / "adapter.safetensors").is_file()


def _worker_pids():
    listed = subprocess.run(["pgrep", "-f", "RayTrainWorker"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


def test_killed_worker_of_a_group_costs_at_most_one_epoch(make_experiment, tiny_videos, tmp_path):
    experiment = make_experiment(optim__epochs=30)
    tiny_videos.save(tmp_path / "videos.json")
    folder = tmp_path / "run"
    before = set(_worker_pids())
    killed, held = [], []

    def kill_one():
        for _ in range(1200):
            if (folder / "history.jsonl").is_file():
                name = (folder / ".ray" / "reservation").read_text()
                held.append(reserved(name))
                killed.extend(sorted(set(_worker_pids()) - before)[:1])
                if killed:
                    os.kill(killed[0], signal.SIGKILL)
                return
            time.sleep(0.1)

    threading.Thread(target=kill_one, daemon=True).start()
    with connect(num_cpus=2, dashboard=True):
        train_distributed(
            experiment,
            tmp_path / "videos.json",
            folder=folder,
            zero_shot=folder / "zero_shot.json",
            request=ResourceRequest(1, 0, 0.5 * GIB, workers=2),
            hparams={},
            max_failures=1,
        )
    assert killed
    assert held[0], "the group's reservation has another name than the file says"
    assert not (folder / ".ray").exists()
    epochs = [json.loads(line)["epoch"] for line in (folder / "history.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, 31))
