"""Small studies on real Ray: files on disk, failures and resuming."""

import csv
import functools
import json
import os
import shutil
import signal

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from evclip_ray.artifacts import ArtifactError
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.features.cache_admin import list_entries
from evclip_ray.objective import OBJECTIVE
from evclip_ray.training.build import build_method
from evclip_ray.training.checkpoint import load_adapter
from evclip_ray.training.experiment import read_experiment
from evclip_ray.training.resources import GIB
from evclip_ray.tuning import tuner
from evclip_ray.tuning.scheduler import RememberingASHA
from evclip_ray.tuning.study_folder import StudyFolder

MACHINES = [{"CPU": 2.0, "memory": 8.0 * GIB}]


@pytest.fixture(scope="module")
def study(study):
    """Return the factory of studies whose trials run one at a time, in one process.

    A process spends seconds on its imports. `tests/cli/test_tune.py` runs two trials at once.
    """
    return functools.partial(study, cpus=2)


def run(study, on_event=None):
    events = []
    plan = study.plan(MACHINES)
    study.claim()
    study.prepare()
    outcome = study.run(plan, lambda *event: (events.append(event), on_event and on_event(*event)))
    return outcome, events


def optuna_study(root):
    storage = JournalStorage(JournalFileBackend(str(root / "study.journal")))
    return optuna.load_study(study_name=root.name, storage=storage)


SEARCH = {
    "optim.lr": {"loguniform": [1e-3, 1e-2]},
    # Seven heads do not divide the channels of the mask generator, `WIDTH` below, so these trials fail.
    "method.mask.heads": {"choice": [8, 7]},
    # The context overflows, so that the loss is not finite.
    "method.context.scale_init": {"choice": [1.0, 1e38]},
}
WIDTH = {"method.mask.width": 64}
USUAL, FAILING, OVERFLOWING = (8, 1.0), (7, 1.0), (8, 1e38)
POOR = 1e-3
POINTS = ((1e-2, USUAL), (1e-2, FAILING), (1e-2, OVERFLOWING), (POOR, USUAL))


@pytest.fixture(scope="module")
def whole(study, tiny_manifest, tmp_path_factory):
    """Run a study with a trial of each kind. Returns a function that opens it, its outcome and its events.

    One study serves all tests of finished ones: Tune and the process of its trials take seconds to start.
    """
    folder = tmp_path_factory.mktemp("whole")
    # The videos are the tiny ones, so nothing is decoded again.
    shutil.copyfile(tiny_manifest, folder / "listed.csv")
    settings = {"data.manifest": str(folder / "listed.csv"), "data.root": str(tiny_manifest.parent)}

    def opened(root=folder / "study", trials=5, **keywords):
        fixed = {**settings, **WIDTH, "optim.epochs": 2}
        options = {"grace_epochs": 1, "reduction_factor": 2, "search": SEARCH, "fixed": fixed}
        return study(root, trials=trials, **options, **keywords)

    tuned = opened()
    tuned.claim()
    journal = tuned._optuna()
    for lr, others in POINTS:
        journal.enqueue_trial(dict(zip(SEARCH, (lr, *others), strict=True)))

    # Which of two trials is better after one epoch depends on the version of PyTorch.
    def judge(scheduler, controller, trial, result):
        if trial.config["overrides"]["optim.lr"] == POOR:
            result = {**result, OBJECTIVE: -1.0}
        return judge_result(scheduler, controller, trial, result)

    judge_result = RememberingASHA.on_trial_result
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RememberingASHA, "on_trial_result", judge)
        outcome, events = run(tuned)
    return opened, outcome, events


@pytest.fixture
def copied(whole, tmp_path):
    """Return the folder of a copy of the finished study."""
    opened, _, _ = whole
    return shutil.copytree(opened().folder.root, tmp_path / "study")


def test_study_writes_leaderboard_and_best_checkpoint(whole):
    opened, outcome, events = whole
    root = opened().folder.root
    assert outcome.missing == 0
    with (root / "leaderboard.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    scored = [row for row in rows if row["val_top1"]]
    assert sorted((float(row["val_top1"]) for row in scored), reverse=True) == [
        float(row["val_top1"]) for row in scored
    ]
    assert {"complete", "stopped"} <= {row["state"] for row in scored}
    for row in scored:
        assert float(row["val_top1_low"]) <= float(row["val_top1"]) <= float(row["val_top1_high"])
        assert 1e-3 <= float(row["optim.lr"]) <= 1e-2
        assert 0 <= float(row["zero_shot_top1"]) <= 1
    experiment = read_experiment(root / "best.yaml")
    assert experiment.optim.lr == pytest.approx(float(rows[0]["optim.lr"]), rel=1e-5)
    record = json.loads((root / "best" / "config.json").read_text())
    load_adapter(root / "best", build_method(experiment, record["classes"], device=torch.device("cpu")))
    assert sum(kind == "ended" for kind, _ in events) == 5
    assert not (root / ".ray").exists()


def test_states_of_trials_are_those_of_optuna(whole):
    opened, outcome, _ = whole
    states = {t.user_attrs["folder"]: t.state for t in optuna_study(opened().folder.root).trials}
    expected = {
        "stopped": TrialState.PRUNED,
        "complete": TrialState.COMPLETE,
        "diverged": TrialState.COMPLETE,
        "failed": TrialState.FAIL,
    }
    assert states == {row.trial: expected[row.state] for row in outcome.rows}
    assert {row.state for row in outcome.rows} == expected.keys()
    assert all(row.epochs == 1 for row in outcome.rows if row.state == "stopped")


def test_failed_trial_is_recorded_and_others_continue(whole):
    opened, outcome, _ = whole
    failed = [row for row in outcome.rows if row.overrides["method.mask.heads"] == 7]
    assert failed == [row for row in outcome.rows if row.state == "failed"]
    for row in failed:
        assert "7" in row.error
        error = opened().folder.trial(row.trial) / "error.txt"
        assert error.read_text().startswith("Traceback")


@pytest.mark.slow
def test_lost_trial_is_run_again_in_the_same_call(study, tmp_path, monkeypatch):
    requested = []

    def losing(*arguments, missing, **keywords):
        requested.append(missing)
        fit(*arguments, missing=missing - (len(requested) == 1), **keywords)

    fit = tuner.fit
    monkeypatch.setattr(tuner, "fit", losing)
    outcome, _ = run(study(tmp_path / "study", trials=2, scheduler="none"))
    assert requested == [2, 1]
    assert outcome.missing == 0
    requested[:] = []
    monkeypatch.setattr(tuner, "fit", lambda *arguments, missing, **keywords: requested.append(missing))
    outcome, _ = run(study(tmp_path / "study", trials=4, scheduler="none"))
    assert requested == [2], "a second call without a new result is not repeated"
    assert outcome.missing == 2


def test_finished_and_moved_study_runs_only_added_trials(whole, copied, tiny_cache, tmp_path):
    opened, first, _ = whole
    for fewer in (5, 1):
        again, events = run(opened(copied, trials=fewer))
        # As text: a column without a value is NaN, which from Python 3.13 on makes two rows unequal.
        assert (again.missing, str(again.rows), events) == (0, str(first.rows), [])
    # The cache is shared with other tests, so it is copied. All of its paths differ nevertheless.
    root, cache = tmp_path / "moved" / "study", tmp_path / "moved" / "cache"
    shutil.copytree(tiny_cache, cache)
    shutil.move(copied, root)
    begun = opened().folder.root
    begun.rename(begun.with_name("elsewhere"))
    try:
        moved = opened(root, trials=6, call={"cache": cache})
        plan = moved.plan(MACHINES)
        assert (plan.missing, plan.undecoded) == (1, 0)
        more, events = run(moved)
        assert not begun.exists()
    finally:
        begun.with_name("elsewhere").rename(begun)
    assert [record.trial for kind, record in events if kind == "ended"] == ["trial-0005"]
    before, after = ({row.trial: row.val_top1 for row in rows} for rows in (first.rows, more.rows))
    assert before.items() < after.items()
    points = [json.dumps(row.overrides, sort_keys=True) for row in more.rows]
    assert len(set(points)) == 6, "the sampler must not propose its first points again"
    assert str(tiny_cache) not in next((root / "videos").iterdir()).read_text()


def test_folder_of_another_study_is_refused(study, tmp_path):
    root = tmp_path / "study"
    study(root, trials=1).claim()
    with pytest.raises(ArtifactError, match=r"another study \(begun with -> given: search\.optim\.lr: "):
        study(root, trials=1, search={"optim.lr": {"uniform": [0.1, 1.0]}}).claim()
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_text("")
    with pytest.raises(ArtifactError, match="holds other files"):
        study(tmp_path / "holiday", trials=1).missing()


def test_checkpoint_records_its_videos_and_others_are_refused(whole, tmp_path):
    opened, _, _ = whole
    root = opened().folder.root
    listed = root.parent / "listed.csv"
    text = listed.read_text()
    lines = text.splitlines()
    record = RowRecord.read(root / "best" / "rows.parquet")
    assert len(record.table) == len(lines) - 1
    assert set(record.table["use"].to_pylist()) == {"train", "val", None}
    dropped = next(number for number, line in enumerate(lines) if '"train"' in line)
    listed.write_text("\n".join(lines[:dropped] + lines[dropped + 1 :]) + "\n")
    try:
        with pytest.raises(ArtifactError, match=r"not those that it began with \(1 removed: "):
            opened(trials=6).plan(MACHINES)
        fork = opened(tmp_path / "fork", trials=6, call={"fork_of": root}).plan(MACHINES)
    finally:
        listed.write_text(text)
    (warm,) = fork.warm_start
    assert (len(warm.points), len(warm.evidence)) == (3, 0)


def test_fork_killed_at_its_start_is_resumed_by_its_folder(study, tmp_path):
    old = StudyFolder(tmp_path / "old")
    study(old.root, trials=1).claim()
    study(tmp_path / "fork", trials=1, call={"fork_of": old.root}).claim()
    assert study(tmp_path / "fork", trials=1).fork_of == old.root
    shutil.rmtree(old.root)
    assert study(tmp_path / "fork", trials=1).fork_of is None


def test_fork_of_a_folder_without_study_is_refused(study, tmp_path):
    fork = study(tmp_path / "fork", trials=1, call={"fork_of": tmp_path / "nowhere"})
    with pytest.raises(ArtifactError, match=r"--fork: --out .*nowhere must be the folder of a study"):
        fork.plan(MACHINES)


def test_unwritable_folder_is_refused(study, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written to"):
        study(tmp_path / "file" / "study", trials=1).claim()


def test_trial_that_never_fits_fails_before_the_start(study, tmp_path):
    with pytest.raises(ValueError, match=r"a trial needs 2 CPU, 4 GPU.*but the cluster has 2 CPU"):
        study(tmp_path / "study", trials=1, gpus=4).plan(MACHINES)
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_killed_trial_resumes_after_its_last_epoch(study, tmp_path):
    root = tmp_path / "study"
    killed = []

    def kill_once(kind, record):
        if kind == "epoch" and record.last.epoch == 1 and not killed:
            killed.append(record.last["pid"])
            os.kill(record.last["pid"], signal.SIGKILL)

    fixed = {"optim.epochs": 3}
    outcome, events = run(study(root, trials=1, scheduler="none", fixed=fixed), kill_once)
    assert killed
    assert [row.state for row in outcome.rows] == ["complete"]
    lines = (root / "trials" / "trial-0000" / "history.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    assert [metrics["epoch"] for metrics in history] == [1, 2, 3]
    processes = {record.last["pid"] for kind, record in events if kind == "epoch"}
    assert len(processes) == 2


@pytest.mark.slow
def test_interrupted_point_resumes_in_its_folder(study, tmp_path):
    root = tmp_path / "study"
    tuned = study(root, trials=2, scheduler="none")
    tuned.claim()
    before = tuned._optuna()
    # After a SIGKILL the trial remains RUNNING and its folder is unfinished.
    trial = before.ask()
    trial.set_user_attr("folder", "trial-0000")
    point = tuned.space.sample(trial)
    tuned.folder.begin("trial-0000", point)
    outcome, _ = run(tuned)
    assert outcome.missing == 0
    assert len(outcome.rows) == 2
    row = next(row for row in outcome.rows if row.trial == "trial-0000")
    assert row.overrides == point
    assert row.state == "complete"
    assert all(t.state.is_finished() for t in optuna_study(root).trials)


@pytest.mark.slow
def test_seed_determines_the_points(study, tmp_path):
    points = []
    for name in ("a", "b"):
        outcome, _ = run(
            study(
                tmp_path / name,
                trials=3,
                sampler="random",
                scheduler="none",
                seed=7,
                fixed={"optim.epochs": 1},
            )
        )
        points.append({row.trial: row.overrides for row in outcome.rows})
    assert points[0] == points[1]


@pytest.mark.slow
def test_study_with_cached_views_computes_features_once(study, tiny_cache, tmp_path):
    fixed = {"data.bank": 2, "optim.epochs": 2}
    first = study(tmp_path / "first", trials=3, scheduler="none", fixed=fixed)
    outcome, _ = run(first)
    assert [row.state for row in outcome.rows] == ["complete"] * 3
    modified = {path: path.stat().st_mtime_ns for path in (tiny_cache / "features").rglob("*.arrow")}
    entries = {(entry.kind, entry.views) for entry in list_entries(tiny_cache / "features")}
    of_views = ("frame_features", "video_map", "video_mean")
    assert entries == {(kind, views) for kind in of_views for views in ("bank", "fixed")} | {
        ("class_text", "fixed")
    }
    second = study(
        tmp_path / "second", trials=2, scheduler="none", fixed={**fixed, "optim.weight_decay": 0.1}
    )
    run(second)
    assert {p: p.stat().st_mtime_ns for p in (tiny_cache / "features").rglob("*.arrow")} == modified
