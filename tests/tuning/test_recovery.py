"""Damaged and lost files of a study: what is read, what is written again, what runs again."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
from safetensors.numpy import save_file

from evclip_ray.artifacts import write_json, write_text
from evclip_ray.records import TrialState
from evclip_ray.results import Study
from evclip_ray.training.checksums import write_checksums
from evclip_ray.tuning import trial_folder
from evclip_ray.tuning.journal import read_journal
from evclip_ray.tuning.optuna_storage import count_missing, open_optuna, own_trials, recover, replay
from evclip_ray.tuning.recovery import recover_study
from evclip_ray.tuning.search_space import SearchSpace, read_space
from evclip_ray.tuning.searcher import StudySearch
from evclip_ray.tuning.stopper import Stops
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.trial_repair import num_ended
from evclip_ray.tuning.tuner import StudyRun, identity

EPOCHS = 3
ENDS = [
    (TrialState.COMPLETE, [0.5, 0.75, 0.625]),
    (TrialState.STOPPED, [0.25, 0.375]),
    (TrialState.COMPLETE, [0.5, 0.5, 0.5]),
    (TrialState.FAILED, [0.125]),
    (TrialState.DIVERGED, [0.5]),
    (TrialState.RUNNING, [0.25]),
]
"""State and scores of each trial."""


@pytest.fixture(autouse=True)
def every_warning(monkeypatch):
    monkeypatch.setattr(trial_folder, "_warned", set())


@pytest.fixture(scope="module")
def space(debug_settings):
    fixed = {"data.manifest": "videos.csv", **debug_settings, "optim.epochs": EPOCHS}
    search = {
        "optim.lr": {"loguniform": [1e-3, 1e-2]},
        "method.prompts": {"choice": ["both", "context"]},
        "seed": {"choice": [0, 1]},
    }
    return SearchSpace.load("tiny", {"fixed": fixed, "search": search, "study": {"sampler": "random"}})


@pytest.fixture(scope="module")
def written(space, tmp_path_factory):
    """Return the folder of a study with one trial per row of `ENDS`, as a search writes it."""
    folder = StudyFolder(tmp_path_factory.mktemp("written") / "study")
    folder.claim(identity(space), objective="best")
    write_json(folder.fixed, dict(space.fixed))
    stops = Stops(None, max_epochs=EPOCHS)
    study = open_optuna(folder)
    search = StudySearch(space, study, folder, max_epochs=EPOCHS, stops=stops, num_slots=lambda: 9)
    search.set_max_concurrency(9)
    for number, (state, scores) in enumerate(ENDS):
        config = search.suggest(f"t{number}")
        run = folder.trial(config["folder"])
        experiment = space.experiment(config["overrides"]).model_dump(mode="json")
        epochs = write_run(run, experiment, scores, diverged=state is TrialState.DIVERGED)
        results = [{**epoch, "objective": epoch["best_val_top1"]} for epoch in epochs]
        # Tune reports the last epoch with the end.
        for result in results[:-1] if state.has_final_score else results:
            search.on_trial_result(f"t{number}", result)
        if state is TrialState.FAILED:
            write_text(run / "error.txt", "Traceback\nValueError: seven")
            results.append({"objective": math.nan, "epoch": 0, "error": "ValueError: seven"})
        if state.has_ended:
            search.on_trial_complete(f"t{number}", results[-1])
            folder.finish(config["folder"], state, results[-1].get("error"))
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """Return a copy of the study for one test."""
    return StudyFolder(shutil.copytree(written.root, tmp_path / "study"))


def write_run(run, experiment, scores, *, diverged=False):
    """Write the files of a run and return the records of its epochs."""
    epochs = []
    for number, score in enumerate(scores, start=1):
        best = max(scores[:number])
        epochs.append(
            {"epoch": number, "val_top1": score, "val_loss": 1.0, "best_val_top1": best, "best_val_loss": 1.0}
            | {"best_epoch": 1 + scores.index(best), "val_videos": 8, "train_videos": 16, "seconds": 1.0}
        )
    if diverged:
        epochs[-1]["diverged"] = True
    history = "".join(json.dumps(epoch) + "\n" for epoch in epochs)
    for name in ("best", "last"):
        checkpoint = run / name
        checkpoint.mkdir(parents=True)
        save_file({"a": np.full(64, scores[-1], np.float32)}, checkpoint / "adapter.safetensors")
        progress = {"epoch": len(scores), "best_epoch": epochs[-1]["best_epoch"]}
        write_json(checkpoint / "config.json", {"experiment": experiment, "progress": progress})
        if name == "last":
            (checkpoint / "history.jsonl").write_text(history)
            save_file({"a": np.zeros(1)}, checkpoint / "optimizer.safetensors")
        write_checksums(checkpoint, [])
    (run / "history.jsonl").write_text(history)
    return epochs


def sampled(folder):
    """Return what a sampler reads of each own trial, by folder."""
    trials = own_trials(replay(read_journal(folder.journal).operations))
    return {
        trial.user_attrs["folder"]: (
            trial.state,
            trial.values,
            trial.params or trial.system_attrs.get("fixed_params"),
            trial.distributions,
            trial.intermediate_values,
            trial.user_attrs,
        )
        for trial in trials
    }


def table(folder):
    return [dataclasses.asdict(row) for row in folder.write_leaderboard()]


def go_on(folder, space):
    """Do what a study does before it runs its missing trials; return its Optuna study."""
    with folder.lock():
        recover_study(folder, space)
        study = open_optuna(folder)
        recover(study, folder)
    assert count_missing(study, 9) == 9 - num_ended(folder)
    return study


VALUE = '"param_value_internal":0.0'


def in_middle(line):
    def damage(path):
        lines = path.read_bytes().split(b"\n")
        lines[len(lines) // 2] = line
        path.write_bytes(b"\n".join(lines))

    return damage


def test_whole_study_is_left_alone(folder, space, caplog):
    before = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if path.is_file()}
    assert num_ended(folder) == 5
    recover_study(folder, space)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text(""),
        in_middle(b"\xff\x00 garbage"),
        in_middle(bytes(200)),
        lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:-20])),
        lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:12])),
        lambda path: path.write_text(path.read_text().replace(VALUE, VALUE + "0", 1)),
    ],
    ids=["deleted", "emptied", "garbage", "zeros", "old_copy", "older_copy", "another_point"],
)
def test_journal_is_rebuilt_with_equal_history(folder, space, damage, caplog):
    rows = table(folder)
    # The trial that was running is enqueued again in both.
    recover(open_optuna(folder), folder)
    before, ended = sampled(folder), num_ended(folder)
    old = folder.journal.read_bytes()
    damage(folder.journal)
    is_kept = folder.journal.is_file() and folder.journal.read_bytes()
    go_on(folder, space)
    after = sampled(folder)
    running = before.pop("trial-0005"), after.pop("trial-0005")
    assert after == before
    assert running[0][2] == running[1][2]
    assert (table(folder), num_ended(folder)) == (rows, ended)
    assert "study.journal: " in caplog.text
    assert "written again from 6 trial folders" in caplog.text
    kept = folder.root / "study.journal.damaged"
    assert kept.is_file() == bool(is_kept)
    assert not is_kept or kept.read_bytes() == is_kept
    assert old != folder.journal.read_bytes()
    caplog.clear()
    go_on(folder, space)
    assert not caplog.text, "the second call finds nothing to repair"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-20],
        lambda content: content[:-1],
        lambda content: content + bytes(4096),
        lambda content: content.replace(b"\n", b"\n \n", 1),
    ],
    ids=["cut", "no_end", "zeros", "blank"],
)
def test_torn_journal_is_cut_and_kept(folder, space, damage, caplog):
    with folder.journal.open("a") as stream:
        stream.write('{"op_code":8,"worker_id":"w","trial_id":5,"user_attr":{"further":1}}\n')
    before = sampled(folder)
    folder.journal.write_bytes(damage(folder.journal.read_bytes()))
    damaged = folder.journal.read_bytes()
    recover_study(folder, space)
    after = sampled(folder)
    for states in (before, after):
        states["trial-0005"][-1].pop("further", None)
    assert after == before
    assert (folder.root / "study.journal.damaged").read_bytes() == damaged
    assert "it is cut there, and the study goes on" in caplog.text
    assert len(caplog.messages) == 1


def test_rebuilt_journal_keeps_evidence_of_warm_starts(folder, space):
    study = open_optuna(folder)
    trial = optuna.trial.create_trial(value=0.5, user_attrs={"evidence": {"study": "other", "trial": "t"}})
    study.add_trial(trial)
    folder.note(warm_start=[{"folder": "other", "study": "k", "points": [], "evidence": 1}])
    in_middle(b"garbage")(folder.journal)
    recover_study(folder, space)
    trials = replay(read_journal(folder.journal).operations).trials
    assert [trial.value for trial in trials if "evidence" in trial.user_attrs] == [0.5]
    assert folder.ledger()["warm_start"]


def test_lost_evidence_is_named_and_can_be_read_again(folder, space, caplog):
    folder.note(warm_start=[{"folder": "/other", "study": "k", "points": [{}], "evidence": 1}])
    folder.journal.unlink()
    recover_study(folder, space)
    assert "add --warm-start /other to read them again" in caplog.text
    assert folder.ledger()["warm_start"] == []


def test_link_that_optuna_left_behind_is_removed(folder, space):
    link = folder.root / "study.journal.lock"
    link.symlink_to(folder.journal)
    go_on(folder, space)
    assert not link.is_symlink()


DAMAGES = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbage": lambda path: path.write_bytes(b"\xff\x00garbage" * (path.stat().st_size // 9 + 1)),
}
FILES = (
    "point.json",
    "result.json",
    "history.jsonl",
    "last/adapter.safetensors",
    "last/config.json",
    "last/history.jsonl",
    "last/checksums.json",
    "best/adapter.safetensors",
    "best/config.json",
    "best/checksums.json",
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_damaged_file_of_a_finished_trial_loses_nothing(folder, space, file, damage, caplog):
    table(folder)
    before, rows = sampled(folder), {row["trial"]: row for row in table(folder)}
    DAMAGES[damage](folder.trial("trial-0000") / file)
    # Reading commands.
    study = Study.load(folder.root)
    assert study.trials["trial"].tolist() == [row["trial"] for row in rows.values()]
    assert study.trials["val_top1"].tolist() == [row["val_top1"] for row in rows.values()]
    assert len(study.epochs) == sum(len(scores) for _, scores in ENDS)
    assert (study.best["trial"], study.best["state"]) == ("trial-0000", "complete")
    assert num_ended(folder) == 5
    # The command that goes on.
    go_on(folder, space)
    assert num_ended(StudyFolder(folder.root)) == 5
    after = sampled(folder)
    assert {name: after[name] for name in before if name != "trial-0005"} == {
        name: before[name] for name in before if name != "trial-0005"
    }
    assert {row["trial"]: row for row in table(folder)} == rows
    for name in ("point.json", "result.json"):
        json.loads((folder.trial("trial-0000") / name).read_text())
    assert caplog.text or file.startswith("last/") or (file, damage) == ("best/checksums.json", "deleted")


def test_lost_results_are_trained_again(folder, space, caplog):
    before = sampled(folder)
    for path in ("history.jsonl", "last/history.jsonl"):
        (folder.trial("trial-0002") / path).write_bytes(b"\xff")
    assert num_ended(folder) == 4
    study = go_on(folder, space)
    assert "trial-0002: its history.jsonl is lost; its point is trained again" in caplog.text
    assert "0 files repaired, 1 trial trained again" in caplog.text
    assert count_missing(study, 6) == 2
    after = sampled(folder)
    assert after["trial-0002"][2] == before["trial-0002"][2]
    assert (folder.trial("trial-0002") / "damaged" / "last").is_dir()
    assert {name: after[name] for name in after if name not in ("trial-0002", "trial-0005")} == {
        name: before[name] for name in before if name not in ("trial-0002", "trial-0005")
    }


def test_interrupted_trial_with_a_damaged_checkpoint_is_named(folder, space, caplog):
    last = folder.trial("trial-0005") / "last"
    shutil.copytree(last, last.with_name(".last.old"))
    DAMAGES["cut"](last / "adapter.safetensors")
    go_on(folder, space)
    assert "adapter.safetensors: must have " in caplog.text
    assert "trial-0005 goes on after epoch 1" in caplog.text
    assert "0 files repaired, 0 trials trained again, 1 trial back to an earlier epoch" in caplog.text
    shutil.rmtree(last.with_name(".last.old"))
    caplog.clear()
    go_on(folder, space)
    assert "trial-0005 starts again" in caplog.text


def test_lost_checkpoint_of_the_best_trial_is_trained_again(folder, space, caplog):
    for path in (folder.root / "best", folder.trial("trial-0000") / "best"):
        (path / "adapter.safetensors").write_bytes(b"")
    assert num_ended(folder) == 4
    assert count_missing(go_on(folder, space), 6) == 2
    assert "adapter.safetensors: must have" in caplog.text
    folder.write_leaderboard()


def test_removed_checkpoints_of_other_trials_are_not_missed(folder, space, caplog):
    for name in ("best", "last"):
        shutil.rmtree(folder.trial("trial-0002") / name)
    go_on(folder, space)
    assert num_ended(folder) == 5
    assert not caplog.text


def test_removed_trial_runs_again_with_its_point(folder, space):
    before = sampled(folder)
    shutil.rmtree(folder.trial("trial-0001"))
    study = go_on(folder, space)
    assert num_ended(folder) == 4
    assert sampled(folder)["trial-0001"][2] == before["trial-0001"][2]
    assert count_missing(study, 6) == 2


def test_trial_whose_point_is_lost_is_set_aside(folder, space, caplog):
    (folder.trial("trial-0001") / "point.json").write_text("")
    folder.journal.unlink()
    for name in ("best", "last"):
        (folder.trial("trial-0001") / name / "config.json").write_text("")
    go_on(folder, space)
    assert (folder.root / "trials" / "lost-trial-0001").is_dir()
    assert "the folder is renamed to lost-trial-0001" in caplog.text
    assert num_ended(folder) == 4


@pytest.mark.parametrize("damage", DAMAGES)
def test_lost_ledger_is_written_again_where_trials_agree(folder, space, damage, caplog):
    rows = table(folder)
    DAMAGES[damage](folder.root / "ledger.json")
    with pytest.raises(
        ValueError, match=r"ledger\.json: .* The `evclip-ray tune` command of this study writes"
    ):
        Study.load(folder.root)
    assert not folder.check(identity(space))
    folder.claim(identity(space), objective="best")
    assert "all 6 trials agree with these settings" in caplog.text
    assert folder.check(identity(space))
    assert table(folder) == rows


@pytest.mark.parametrize("damage", DAMAGES)
def test_lost_ledger_before_the_first_trial_is_written_again(space, damage, tmp_path):
    folder = StudyFolder(tmp_path / "study")
    folder.claim(identity(space), objective="best")
    write_json(folder.fixed, dict(space.fixed))
    DAMAGES[damage](folder.root / "ledger.json")
    folder.journal.write_text("")
    folder.claim(identity(space), objective="best")
    assert folder.check(identity(space))
    (folder.root / "ledger.json").unlink()
    (folder.root / "photo.jpg").write_text("")
    with pytest.raises(ValueError, match="holds other files; choose another --out"):
        folder.check(identity(space))


def test_lost_ledger_of_another_study_is_refused(folder, space):
    (folder.root / "ledger.json").unlink()
    other = space.replace({"optim.epochs": EPOCHS + 1})
    with pytest.raises(
        ValueError, match=r"ledger\.json: is lost, and trial-0000 is of a study with other set"
    ):
        folder.claim(identity(other), objective="best")
    with pytest.raises(ValueError, match="compared by the objective 'best', got 'last'"):
        folder.check_objective("last")


def test_lost_ledger_of_an_earlier_version_is_compared(folder, space):
    for path in folder.root.glob("trials/*/point.json"):
        write_json(path, {"overrides": json.loads(path.read_text())["overrides"]})
    (folder.root / "ledger.json").unlink()
    other = space.replace({"optim.epochs": EPOCHS + 1})
    with pytest.raises(ValueError, match=r"other settings \(optim\.epochs\).*Restore ledger\.json"):
        folder.check(identity(other))
    folder.claim(identity(space), objective="best")
    assert folder.has_ledger


OLD = Path(__file__).parents[1] / "data_files"


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_trial_of_an_earlier_version_loses_nothing(damage, tmp_path):
    space = read_space(OLD / "old_study.yaml")
    files = [path for path in (OLD / "old_study/trials/trial-0001").rglob("*") if path.is_file()]
    rows = Study.load(OLD / "old_study").trials.to_dict("records")
    for number, file in enumerate(sorted(files)):
        folder = StudyFolder(shutil.copytree(OLD / "old_study", tmp_path / f"study-{number}"))
        DAMAGES[damage](folder.root / file.relative_to(OLD / "old_study"))
        read = Study.load(folder.root).trials.to_dict("records")
        assert [row["trial"] for row in read] == [row["trial"] for row in rows]
        for name in ("val_top1", "state", "optim.lr", "method.prompts"):
            assert [row[name] for row in read] == [row[name] for row in rows]
        recover_study(folder, space)
        assert num_ended(folder) == 1
        folder.write_leaderboard()


@pytest.mark.parametrize("damage", DAMAGES)
def test_lost_ledger_and_settings_of_an_earlier_version(damage, tmp_path):
    root = shutil.copytree(OLD / "old_study", tmp_path / "study")
    for name in ("ledger.json", "fixed.json"):
        DAMAGES[damage](root / name)
    run = StudyRun(read_space(OLD / "old_study.yaml"), root, cache=tmp_path / "cache")
    assert run.space.fixed["view"]["fit"] == "crop", "the default of that version"
    assert run.missing() == 3
    run.claim()
    assert run.folder.has_ledger
