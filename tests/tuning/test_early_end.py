"""Studies that end early and resume. In a separate file because each trial takes both CPUs."""

import errno
import functools
import json
import math
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import optuna
import pytest

from evclip_ray import termination
from evclip_ray.artifacts import ArtifactError
from evclip_ray.training.resources import GIB
from evclip_ray.tuning import stopper, trainable
from evclip_ray.tuning.journal import read_journal
from evclip_ray.tuning.optuna_storage import replay
from evclip_ray.tuning.stopper import Stops
from evclip_ray.tuning.study_folder import StudyFolder

ONE_AT_A_TIME = [{"CPU": 2.0, "memory": 8.0 * GIB}]


@pytest.fixture
def study(study):
    """Return the factory of studies whose trials take both CPUs and so run one at a time."""
    return functools.partial(study, cpus=2)


def run(study, on_event=lambda *event: None):
    plan = study.plan(ONE_AT_A_TIME)
    study.claim()
    study.prepare()
    return study.run(plan, on_event)


def history(root, trial):
    lines = (root / "trials" / trial / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["epoch"] for line in lines]


@pytest.mark.slow
def test_time_budget_pauses_trials_and_next_call_resumes(study, tmp_path, monkeypatch):
    root, now = tmp_path / "study", [0.0]
    monkeypatch.setattr(stopper, "time", SimpleNamespace(monotonic=lambda: now[0]))
    options = {"trials": 2, "scheduler": "none", "fixed": {"optim.epochs": 4}}

    def time_passes(kind, record):
        now[0] = float("inf")

    outcome = run(study(root, call={"time_budget": 3600.0}, **options), time_passes)
    assert (outcome.missing, outcome.out_of_time, outcome.interrupted) == (2, True, False)
    assert [(row.state, row.epochs) for row in outcome.rows] == [("paused", 2)]
    (waiting,) = replay(read_journal(root / "study.journal").operations).trials
    assert (waiting.state, list(waiting.intermediate_values)) == (optuna.trial.TrialState.WAITING, [1])
    now[0] = 0.0
    again = run(study(root, **options))
    assert again.missing == 0
    assert {(row.trial, row.state) for row in again.rows} == {
        ("trial-0000", "complete"),
        ("trial-0001", "complete"),
    }
    assert history(root, "trial-0000") == [1, 2, 3, 4]
    for trial in replay(read_journal(root / "study.journal").operations).trials:
        assert trial.state is optuna.trial.TrialState.COMPLETE
        assert sorted(trial.intermediate_values) == [1, 2, 3, 4]


def test_no_trial_starts_after_the_time_budget(study, tmp_path):
    outcome = run(study(tmp_path / "study", call={"time_budget": 0.0}))
    assert outcome.rows == []
    assert outcome.missing == float("inf")
    assert outcome.out_of_time


@pytest.mark.slow
def test_repeated_point_runs_with_another_seed(study, tmp_path):
    root, search, short = tmp_path / "study", {"optim.lr": {"choice": [1e-3]}}, {"optim.epochs": 1}
    outcome = run(study(root, search=search, fixed=short, trials=2))
    assert sorted(row.overrides.get("seed", 0) for row in outcome.rows) == [0, 1]
    assert {row.point_seeds for row in outcome.rows} == {2}
    mean = sum(row.val_top1 for row in outcome.rows) / 2
    assert outcome.rows[0].point_top1 == pytest.approx(mean)
    # A point of an earlier study gets a new seed as well.
    call = {"warm_start": [root]}
    later = study(tmp_path / "later", search=search, fixed=short, trials=1, call=call)
    assert (
        "its 1 best point first; 2 of its 2 trials as evidence"
        in dict(later.plan(ONE_AT_A_TIME).lines())["warm start"]
    )
    rows = run(later).rows
    assert [(row.trial, row.overrides) for row in rows] == [("trial-0000", {"optim.lr": 1e-3, "seed": 2})]


def test_resumed_study_compares_with_finished_trials(study, tmp_path):
    tuned = study(tmp_path / "study", trials=3, grace_epochs=1, fixed={"optim.epochs": 4})
    tuned.claim()
    before = tuned._optuna()
    for name in ("trial-0000", "trial-0001"):
        trial = before.ask()
        trial.set_user_attr("folder", name)
        tuned.folder.begin(name, tuned.space.sample(trial))
        epochs = [{"epoch": e, "val_top1": 1.1, "best_val_top1": 1.1, "seconds": 1.0} for e in range(1, 5)]
        lines = "\n".join(json.dumps(epoch) for epoch in epochs)
        (tuned.folder.trial(name) / "history.jsonl").write_text(lines)
        tuned.folder.finish(name, "complete")
        before.tell(trial, 1.1)
    rows = run(tuned).rows
    assert {row.trial: (row.state, row.epochs) for row in rows}["trial-0002"] == ("stopped", 1)


def test_folder_in_use_is_refused_until_its_owner_ends(tmp_path):
    folder = StudyFolder(tmp_path)
    code = (
        # The base class: importing the study's own folder takes seconds.
        "import pathlib, sys, time; from evclip_ray.claimed_folder import ClaimedFolder\n"
        "with ClaimedFolder(pathlib.Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ArtifactError, match=rf"process {holder.pid} on .* is running this study"):
            folder.claim({"seed": 0})
        os.kill(holder.pid, signal.SIGKILL)
    folder.claim({"seed": 0})
    with folder.lock(), pytest.raises(ArtifactError, match=f"process {os.getpid()} on"):
        folder.claim({"seed": 0})


def test_trial_that_ends_by_itself_is_not_paused():
    stops = Stops(0.0, max_epochs=4)
    assert stops.out_of_time
    assert stops("a", {"epoch": 3})
    assert stops.is_paused("a", {"epoch": 3})
    for ended in ({"epoch": 4}, {"epoch": 2, "diverged": True}, {"epoch": 0, "error": "no"}):
        assert not stops("b", ended)
    assert not stops.is_paused("b", {"epoch": 4})


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_first_signal_ends_the_study_second_interrupts(request, monkeypatch, number, status):
    # A shell that starts the tests in the background makes them ignore SIGINT.
    request.addfinalizer(functools.partial(signal.signal, number, signal.getsignal(number)))
    monkeypatch.setattr(termination._State, "received", None)
    signal.signal(number, signal.default_int_handler)
    stops = Stops(None, max_epochs=4)
    with stops.on_interrupt():
        signal.raise_signal(number)
        assert stops.stop_all()
        assert stops.is_paused("a", {"epoch": 3})
        assert termination.exit_status() == status
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is signal.default_int_handler


FULL = {"reason": "the disk is full", "fix": "Free some space.", "kind": "disk", "path": "/out/last"}


def test_fault_in_a_trial_pauses_all_trials():
    stops = Stops(None, max_epochs=4)
    assert not stops("a", {"epoch": 2})
    assert stops("a", {"epoch": 0, "objective": math.nan, "fault": json.dumps(FULL)})
    assert stops.is_over
    assert stops("b", {"epoch": 2})
    assert not stops("c", {"epoch": 4}), "its last epoch is on disk"
    assert [stops.is_paused(name, {"epoch": 2}) for name in "abc"] == [True, True, False]
    assert stops.fault.describe().startswith("/out/last: the disk is full")


def test_trial_reports_a_fault_and_writes_no_error(tmp_path, monkeypatch):
    def fill(config):
        raise OSError(errno.ENOSPC, "No space left on device", "/out/last")

    reported = []
    monkeypatch.setattr(trainable, "_train", fill)
    monkeypatch.setattr(trainable.tune, "report", reported.append)
    trial = StudyFolder(tmp_path).trial("trial-0000")
    trial.mkdir(parents=True)
    (trial / "error.txt").write_text("of an earlier attempt")
    trainable.run_trial({"study": str(tmp_path), "folder": "trial-0000"})
    assert [json.loads(result["fault"]) for result in reported] == [FULL]
    assert "error" not in reported[0]
    assert list(trial.iterdir()) == []


def test_only_faults_of_the_machine_pause_the_study():
    stops = Stops(None, max_epochs=4)
    with pytest.raises(ValueError, match="a bug"), stops.pausing():
        raise ValueError("a bug")
    assert not stops.is_over
    with stops.pausing():
        raise OSError(errno.ENOSPC, "No space left on device", "/out/study.journal")
    assert stops.fault.path == "/out/study.journal"
    stops.note_death("a", "1 worker(s) were killed due to the node running low on memory.")
    assert stops.is_paused("a", {})
    assert stops.fault.kind == "disk", "the first fault is reported"
    stops.note_death("b", "The actor died: SIGKILL")
    assert not stops.is_paused("b", {})
