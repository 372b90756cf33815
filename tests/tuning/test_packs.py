"""Studies whose trials share processes: each trial is what it is by itself, whatever becomes of others."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
import ray

from evclip_ray.training.placement import GIB
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.tuner import StudyRun

MACHINES = [{"CPU": 1.0, "memory": 8.0 * GIB}]


@pytest.fixture
def run(tiny_manifest, tiny_cache, tiny_videos, local_ray, debug_settings, tmp_path):
    """Runs a study of random points in a folder of this name; its rows by trial."""

    def run(name, search, *, on_event=lambda *event: None, epochs=2, **options):
        data = {
            "fixed": {"data.manifest": str(tiny_manifest), **debug_settings, "optim.epochs": epochs},
            "search": search,
            "study": {"memory_gb": 0.5, "sampler": "random", "seed": 1, "scheduler": "none", **options},
        }
        study = StudyRun(SearchSpace.load("tiny", data), tmp_path / name, cache=tiny_cache)
        plan = study.plan(MACHINES)
        study.claim()
        study.prepare()
        outcome = study.run(plan, on_event)
        assert outcome.missing == 0
        return {row["trial"]: row for row in outcome.rows}

    return run


@pytest.mark.slow
def test_a_packed_study_has_the_rows_of_an_unpacked_one_and_a_failing_trial_is_alone_in_it(run, tmp_path):
    # Eight heads do not divide the generator's channels when a trial draws 7.
    search = {"method.mask.heads": {"choice": [8, 7]}, "optim.lr": {"loguniform": [1e-3, 1e-2]}}
    alone = run("alone", search, trials=4)
    packed = run("packed", search, trials=4, pack=2)
    assert {row["state"] for row in alone.values()} == {"complete", "failed"}
    for trial, row in packed.items():
        assert {key: row[key] for key in ("state", "overrides", "error", "epochs")} == {
            key: alone[trial][key] for key in ("state", "overrides", "error", "epochs")
        }
        assert row["val_loss"] == pytest.approx(alone[trial]["val_loss"], rel=1e-4)
        if row["state"] == "failed":
            trace = tmp_path / "packed" / "trials" / trial / "error.txt"
            assert trace.read_text().startswith("Traceback")


@pytest.mark.slow
def test_members_are_stopped_at_different_epochs_and_their_places_are_filled(run):
    rows = run(
        "asha", {"optim.lr": {"choice": [1e-7, 1e-2]}}, trials=6, epochs=4, pack=3,
        scheduler="asha", grace_epochs=1, reduction_factor=2,
    )  # fmt: skip
    assert {row["state"] for row in rows.values()} == {"complete", "stopped"}
    for row in rows.values():
        assert (row["epochs"] == 4) == (row["state"] == "complete")


@pytest.mark.slow
def test_a_killed_pack_costs_its_trials_at_most_the_epoch_they_were_in(run, tmp_path):
    killed = []

    def kill_once(kind, trial, metrics):
        if kind == "epoch" and metrics["epoch"] == 2 and not killed:
            killed.append(trial)
            threading.Thread(target=kill).start()

    def kill():
        (name,) = (name for name in ray.util.list_named_actors() if name.startswith("pack-"))
        os.kill(ray.get(ray.get_actor(name).__ray_call__.remote(lambda pack: os.getpid())), signal.SIGKILL)

    rows = run(
        "killed", {"optim.lr": {"loguniform": [1e-3, 1e-2]}},
        trials=3, epochs=6, pack=3, max_failures=2, on_event=kill_once,
    )  # fmt: skip
    assert killed
    assert {row["state"] for row in rows.values()} == {"complete"}
    for trial in rows:
        lines = (tmp_path / "killed" / "trials" / trial / "history.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_the_process_of_a_packed_trial_loads_no_torch():
    code = "import sys, evclip_ray.tuning.packed_trial; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
