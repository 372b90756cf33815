"""A study whose driver is killed and whose files are damaged, with real processes and Ray."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from optuna.trial import TrialState

from evclip_ray.results import Study
from evclip_ray.training.resources import GIB
from evclip_ray.tuning.journal import read_journal
from evclip_ray.tuning.optuna_storage import replay

pytestmark = pytest.mark.slow


@pytest.fixture
def tune(tiny_manifest, tiny_cache, debug_settings, without_ray, tmp_path):
    """Return a function that starts the command on a study of four trials, in a process group of its own."""
    space = {
        "fixed": {"data.manifest": str(tiny_manifest), **debug_settings},
        "search": {"optim.lr": {"loguniform": [1e-3, 1e-2]}},
        "study": {"trials": 4, "sampler": "random", "seed": 3, "scheduler": "none", "memory_gb": 0.5},
    }
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))

    def start(name):
        command = [sys.executable, "-m", "evclip_ray", "tune", str(tmp_path / "space.yaml")]
        return subprocess.Popen(
            [*command, "--out", str(tmp_path / name), "--cache", str(tiny_cache)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    return start


def finish(process):
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def numbers(root):
    """Return point and epochs of each trial, without times."""
    return {
        path.parent.name: (
            json.loads((path.parent / "point.json").read_text())["overrides"],
            [
                {name: value for name, value in json.loads(line).items() if "seconds" not in name}
                for line in path.read_text().splitlines()
            ],
        )
        for path in sorted(root.glob("trials/*/history.jsonl"))
    }


def test_killed_and_damaged_study_ends_as_an_undisturbed_one(tune, tmp_path):
    finish(tune("whole"))
    root = tmp_path / "study"
    first = tune("study")
    while not list(root.glob("trials/trial-0002/history.jsonl")):
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert any(not path.with_name("result.json").is_file() for path in root.glob("trials/*/history.jsonl"))
    # As a power loss leaves them.
    journal = root / "study.journal"
    journal.write_bytes(journal.read_bytes()[:-20])
    (root / "study.journal.lock").symlink_to(journal)
    (root / "ledger.json").write_text("")
    (root / "trials" / "trial-0000" / "history.jsonl").write_text("{")
    (root / "trials" / "trial-0001" / "point.json").write_text("")
    for path in root.glob("trials/trial-0002/last/adapter.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
    output = finish(tune("study"))
    for line in ("ledger.json: is lost; it is written again", "study.journal: line", "point.json"):
        assert line in output
    assert numbers(root) == numbers(tmp_path / "whole")
    assert Study.load(root).trials["state"].tolist() == ["complete"] * 4
    # Without the journal and with everything complete, nothing is trained.
    journal.unlink()
    assert "it is written again from 4 trial folders" in finish(tune("study"))
    assert numbers(root) == numbers(tmp_path / "whole")


def sampled(root):
    """Return what a sampler reads of each trial: values by epoch only of those that were stopped."""
    return [
        (
            trial.state,
            trial.values,
            trial.params,
            trial.distributions,
            trial.intermediate_values if trial.state is TrialState.PRUNED else None,
        )
        for trial in replay(read_journal(root / "study.journal").operations).trials
        if trial.state.is_finished()
    ]


@pytest.mark.parametrize("scheduler", ["none", "asha"])
def test_rebuilt_journal_has_the_history_of_a_real_search(study, tmp_path, scheduler):
    root = tmp_path / "study"
    search = {"optim.lr": {"choice": [1e-4, 1e-2, 1e30]}}
    options = {"grace_epochs": 1, "reduction_factor": 2, "scheduler": scheduler, "seed": 3}
    tuned = study(root, trials=6, search=search, fixed={"optim.epochs": 3}, **options)
    plan = tuned.plan([{"CPU": 2.0, "memory": 8.0 * GIB}])
    tuned.claim()
    tuned.prepare()
    rows = tuned.run(plan, lambda *event: None).rows
    before = sampled(root)
    assert len({trial[0] for trial in before}) == (1 if scheduler == "none" else 2)
    (root / "study.journal").unlink()
    assert tuned.finished().rows == rows
    assert sampled(root) == before
