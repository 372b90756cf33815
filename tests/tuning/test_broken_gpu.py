"""Trials whose GPU fails, with made-up GPUs, real processes and raised errors."""

import itertools
import logging
import math
import os
import subprocess
import time
from pathlib import Path

import pytest
import ray

from evclip_ray.machine_faults import MachineFault
from evclip_ray.tuning import broken_gpu, trainable
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.tuner import StudyRun

LAUNCH = RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronous")


@pytest.mark.parametrize(
    ("status", "printed", "expected"),
    [(0, "", True), (1, "RuntimeError: No CUDA GPUs are available", False), (1, "CUDA out of memory", True)],
)
def test_new_process_tells_whether_a_gpu_works(monkeypatch, status, printed, expected):
    done = subprocess.CompletedProcess([], status, "", printed)
    monkeypatch.setattr(broken_gpu.subprocess, "run", lambda *args, **options: done)
    assert broken_gpu.gpu_works() == expected


@pytest.mark.parametrize(
    ("works", "gpus", "free", "idle", "waits", "raised"),
    [
        (True, 1, [], [], 0, r"the GPU cannot be used \(CUDA error: unspecified launch failure\)"),
        (False, 2, [0, 0.4, 0.5, 1], [], 2, r"a GPU is lost \(.*CUDA error: unspecified launch failure\)"),
        # Half an hour without an epoch of another trial.
        (False, 2, [0] * 9, [math.inf], 3, None),
        (False, 2, [0] * 9, [1800.0], 3, None),
        # Another trial finished an epoch ten minutes ago, and none after it.
        (False, 2, [0] * 9, [600.0, 1800.0], 6, None),
        # The next trials take every free GPU for hours.
        (False, 2, [0] * 24 + [1, 1], itertools.repeat(60.0), 24, r"a GPU is lost"),
        (False, 1, [], [], 0, None),
    ],
)
def test_process_with_a_broken_gpu_is_left(tmp_path, monkeypatch, works, gpus, free, idle, waits, raised):
    def fail(config):
        raise LAUNCH

    def release():
        raise AssertionError("every call of CUDA fails now")

    reported = []
    monkeypatch.setattr(trainable, "_train", fail)
    monkeypatch.setattr(trainable, "_release_memory", release)
    monkeypatch.setattr(trainable.tune, "report", reported.append)
    monkeypatch.setattr(broken_gpu, "gpu_works", lambda: works)
    monkeypatch.setattr(broken_gpu, "num_gpus", lambda: gpus)
    free, idle = iter(free), iter(idle)
    monkeypatch.setattr(broken_gpu, "free_gpus", lambda: next(free))
    monkeypatch.setattr(StudyFolder, "idle_seconds", lambda folder: next(idle))
    monkeypatch.setattr(broken_gpu, "_POLL_SECONDS", 0)
    ticks = itertools.count()
    # The wait has four polls.
    monkeypatch.setattr(broken_gpu.time, "monotonic", lambda: 450.0 * next(ticks))
    StudyFolder(tmp_path).trial("trial-0000").mkdir(parents=True)
    request = {"cpus": 1, "gpus": 0.5, "memory": 1}
    config = {"study": str(tmp_path), "folder": "trial-0000", "request": request}
    if raised:
        with pytest.raises(RuntimeError, match=raised):
            trainable.run_trial(config)
    else:
        trainable.run_trial(config)
        assert "a GPU is lost" in reported.pop()["fault"]
    # The share of the lost GPU is kept meanwhile, and the trial can be stopped.
    assert all("waiting" in result for result in reported)
    assert len(reported) == waits


def failing_at(notes, *, works, gpus, times=1):
    """Return a setup of worker processes in which the first trial loses its GPU a number of times."""
    text = str(LAUNCH)

    def setup():
        from evclip_ray.tuning import broken_gpu, trainable

        usual = trainable._train

        def train(config):
            with Path(notes).open("a") as file:
                file.write(f"{config['folder']} {os.getpid()}\n")
            failed = Path(notes).read_text().count("trial-0000") if config["folder"] == "trial-0000" else 99
            if failed <= times:
                raise RuntimeError(text)
            usual(config)

        trainable._train = train
        broken_gpu.gpu_works = lambda: works
        broken_gpu.num_gpus = lambda: gpus
        broken_gpu.free_gpus = lambda: 1.0

    return setup


def waiting_at():
    """Return a setup of worker processes in which the first trial waits for memory for ever."""

    def setup():
        import torch

        from evclip_ray.tuning import gpu_turns, trainable

        usual = trainable.start_run

        def start_run(*args, folder, **options):
            if folder.name == "trial-0000":
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return usual(*args, folder=folder, **options)

        trainable.start_run = start_run
        gpu_turns.reserved_bytes = gpu_turns.total_bytes = lambda: 100
        gpu_turns.free_bytes = lambda: 0

    return setup


@pytest.fixture
def study_with(tiny_manifest, tiny_cache, debug_settings, tmp_path, without_ray, monkeypatch):
    """Return a function that runs a study of two trials on a Ray with made-up GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    def run(setup, *, time_budget=None, **study):
        ray.shutdown()
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=1,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"worker_process_setup_hook": setup},
        )
        data = {
            "fixed": {"data.manifest": str(tiny_manifest), **debug_settings},
            "search": {"optim.lr": {"loguniform": [1e-3, 1e-2]}},
            "study": {"memory_gb": 0.5, "scheduler": "none", "trials": 2, "gpus": 1, **study},
        }
        space = SearchSpace.load("tiny", data)
        run = StudyRun(space, tmp_path / "study", cache=tiny_cache, time_budget=time_budget)
        plan = run.plan([node["Resources"] for node in ray.nodes()])
        run.claim()
        run.prepare()
        return run.run(plan, lambda event, record: None)

    yield run
    ray.shutdown()


@pytest.mark.slow
def test_trial_with_a_broken_context_goes_on_in_a_new_process(study_with, tmp_path, caplog):
    notes = tmp_path / "notes"
    with caplog.at_level(logging.WARNING):
        rows = study_with(failing_at(str(notes), works=True, gpus=1)).rows
    assert [row.state for row in rows] == ["complete", "complete"]
    (_, broken), *later = [line.split() for line in notes.read_text().splitlines()]
    assert broken not in [pid for _, pid in later]
    assert "the GPU cannot be used (CUDA error: unspecified launch failure)" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [1, 2])
def test_lost_gpu_pauses_the_study_which_resumes(study_with, tmp_path, gpus):
    notes = tmp_path / "notes"
    with pytest.raises(MachineFault, match=r"a GPU is lost \(.*The same command continues it"):
        study_with(failing_at(str(notes), works=False, gpus=gpus, times=9))
    attempts = [line.split() for line in notes.read_text().splitlines()]
    first = [pid for name, pid in attempts if name == "trial-0000"]
    # With another GPU in the cluster, a trial has `max_failures` restarts, each in a new process.
    assert len(first) == len(set(first)) == (1 if gpus == 1 else 3)
    rows = study_with(failing_at(str(notes), works=True, gpus=1, times=0)).rows
    assert [row.state for row in rows] == ["complete", "complete"]


@pytest.mark.slow
def test_trial_that_waits_for_memory_ends_with_the_time(study_with, tmp_path):
    began = time.monotonic()
    outcome = study_with(waiting_at(), time_budget=40, gpus=None, trials_per_gpu=2)
    assert outcome.out_of_time
    states = {record.trial: record.state for record in StudyFolder(tmp_path / "study").trials()}
    assert states["trial-0000"] == "paused"
    assert time.monotonic() - began < 90, "the wait itself has half an hour"
