"""Small ladders on real Ray: files on disk, resuming and the command."""

import contextlib
import csv
import dataclasses
import json
import math

import pytest
import yaml
from click.testing import CliRunner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evclip_ray.artifacts import ArtifactError, read_json, write_ledger
from evclip_ray.cli import main
from evclip_ray.config import ConfigError
from evclip_ray.records import TrialState
from evclip_ray.scaling.ladder import LadderRun, StepState, total_seconds
from evclip_ray.scaling.ladder_steps import Ladder
from evclip_ray.scaling.tables import best_trial, write_tables
from evclip_ray.training.resources import GIB
from evclip_ray.tuning.optuna_storage import recover
from evclip_ray.tuning.searcher import StudySearch
from evclip_ray.tuning.stopper import Stops
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.tuner import Outcome, identity

MACHINES = [{"CPU": 2.0, "memory": 8.0 * GIB}]
SEARCH = {"optim.lr": {"loguniform": [1e-3, 1e-2]}, "method.prompts": {"choice": ["both", "context"]}}


@pytest.fixture
def ladder(tiny_manifest, debug_settings, tmp_path):
    """Return a function that builds a ladder over the tiny videos."""

    def make(over=None, *, fixed=None, **study):
        data = {
            "fixed": {
                **debug_settings,
                "data.manifest": str(tiny_manifest),
                "optim.epochs": 1,
                **(fixed or {}),
            },
            "search": SEARCH,
            "study": {"memory_gb": 0.5, "scheduler": "none", "trials": 1, **study},
        }
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(data))
        return Ladder.read(path, over=over or {"backbone.name": ["debug_small", "debug"]})

    return make


def board(folder, tag):
    """Return the HParams metadata of a folder's event files."""
    return EventAccumulator(str(folder)).Reload().SummaryMetadata(tag).plugin_data.content


def climb(run, *, search=None):
    """Run a ladder. Return its states and the names of the searched steps."""
    searched = []

    def default(study, plan):
        return study.run(plan, lambda *event: None)

    def follow(study, plan):
        searched.append(study.folder.root.name)
        return (search or default)(study, plan)

    states = run.run(MACHINES, prepare=lambda study: study.prepare(), search=follow)
    return states, searched


def table(root, name):
    with (root / f"{name}.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_ladder_writes_one_study_per_step_and_tables(ladder, tiny_cache, tiny_videos, local_ray, tmp_path):
    root = tmp_path / "ladder"
    run = LadderRun(ladder(), root, cache=tiny_cache, measure=False)
    states, searched = climb(run)
    assert [(state.name, state.state) for state in states] == [
        ("debug_small", "finished"),
        ("debug", "finished"),
    ]
    assert searched == ["debug_small", "debug"]
    ledger = read_json(root / "ledger.json")
    assert ledger["stage"] == "ladder"
    assert [step["state"] for step in ledger["rungs"]] == ["finished", "finished"]
    assert ledger["rungs"][0]["train_videos"] > 0

    declared = board(root, "_hparams_/experiment")
    assert all(name in declared for name in (b"backbone.name", b"debug_small", b"optim.lr"))
    (trial,) = (root / "rungs" / "debug_small" / "trials").glob("trial-*")
    assert b"debug_small" in board(trial, "_hparams_/session_start_info")

    rows = table(root, "ladder")
    assert [row["rung"] for row in rows] == ["debug_small", "debug"]
    for row in rows:
        assert float(row["val_top1_low"]) <= float(row["val_top1"]) <= float(row["val_top1_high"])
        assert row["random_weights"] == "True"
        assert row["latency_seconds"] == row["pareto"] == "", "not measured"
        assert (row["shared_points"], row["warm_start"]) == ("0", "")
        assert row["pareto_total_parameters"] in ("True", "False")
    assert float(rows[0]["inference_gmac"]) < float(rows[1]["inference_gmac"])
    assert rows[0]["gain"] == ""
    gain = float(rows[1]["val_top1"]) - float(rows[0]["val_top1"])
    assert float(rows[1]["gain"]) == pytest.approx(gain, abs=1e-5)
    assert float(rows[1]["gain_low"]) <= gain <= float(rows[1]["gain_high"])
    assert rows[1]["gain_interval"] == "paired over the same groups of videos"

    priced = table(root, "costs")
    tower = [
        float(r["value"]) for r in priced if (r["quantity"], r["part"]) == ("inference_gmac", "image_tower")
    ]
    assert tower == sorted(tower)
    assert len(tower) == 2
    assert {row["status"] for row in table(root, "importance")} == {"too few trials: 1, 8 are needed"}
    assert {row["status"] for row in table(root, "transfer")} == {"too few trials: 1, 3 are needed"}
    fits = read_json(root / "fits.json")
    assert {fit["status"] for fit in fits["accuracy"] if fit["cost"] == "inference_gmac"} == {
        "not enough steps: 2 of different cost, 3 are needed",
        "not enough steps: 2 of different cost, 4 are needed",
    }
    assert fits["transfer"]["cost"] == "inference_gmac"

    again, searched = climb(LadderRun(ladder(), root, cache=tiny_cache, measure=False))
    assert ([state.state for state in again], searched) == (["finished", "finished"], [])
    with pytest.raises(ArtifactError, match=r"another ladder \(begun with .*optim\.weight_decay"):
        LadderRun(ladder(fixed={"optim.weight_decay": 0.5}), root, cache=tiny_cache).plan(MACHINES)


@pytest.mark.slow
def test_failed_step_is_reported_and_others_continue(ladder, tiny_cache, tiny_videos, local_ray, tmp_path):
    root = tmp_path / "ladder"
    over = {"backbone.pretrained": ["no_such_weights.pt", "random"]}
    states, _ = climb(LadderRun(ladder(over), root, cache=tiny_cache, measure=False))
    assert [state.state for state in states] == ["failed", "finished"]
    assert "no_such_weights.pt" in states[0].error
    failed, finished = table(root, "ladder")
    assert (failed["state"], failed["val_top1"], failed["inference_gmac"]) == ("failed", "", "")
    assert "no_such_weights.pt" in failed["error"]
    assert finished["val_top1"] != ""
    fit = read_json(root / "fits.json")["accuracy"][0]
    assert fit["left_out"] == [failed["rung"]]


def test_raising_step_is_retried_and_interrupt_ends_the_ladder(
    ladder, tiny_cache, tiny_videos, tmp_path, local_ray
):
    root = tmp_path / "ladder"

    def breaks(study, plan):
        if study.folder.root.name == "debug_small":
            raise OSError("the disk is on fire")
        return Outcome([], missing=1, interrupted=True)

    over = {"backbone.name": ["debug_small", "debug", "debug_large"]}
    states, _ = climb(LadderRun(ladder(over), root, cache=tiny_cache, measure=False), search=breaks)
    assert [state.state for state in states] == ["failed", "interrupted"]
    assert states[0].error == "OSError: the disk is on fire"
    assert [row["state"] for row in table(root, "ladder")] == ["failed", "interrupted", "not begun"]
    again = LadderRun(ladder(over), root, cache=tiny_cache, measure=False)
    again._note(StepState("debug_large", {}, "finished"))
    _, searched = climb(again, search=breaks)
    assert searched == ["debug_small", "debug"]
    assert table(root, "ladder")[2]["state"] == "finished", "the state of an earlier call is kept"


@pytest.mark.slow
def test_ladder_of_one_step_can_be_extended(ladder, tiny_cache, tiny_videos, local_ray, tmp_path):
    root = tmp_path / "ladder"
    one = {"backbone.name": ["debug"]}
    states, _ = climb(LadderRun(ladder(one), root, cache=tiny_cache))
    assert [state.state for state in states] == ["finished"]
    (row,) = table(root, "ladder")
    assert float(row["latency_seconds"]) > 0
    assert row["pareto"] == "True"
    cost = read_json(root / "costs" / "debug.json")
    assert cost["measured"][0]["phase"] == "inference"
    before = (root / "costs" / "debug.json").read_bytes()
    two = ladder({"backbone.name": ["debug", "debug_large"]})
    states, searched = climb(LadderRun(two, root, cache=tiny_cache, measure=False))
    assert [state.state for state in states] == ["finished"] * 2
    assert searched == ["debug_large"], "only the added step is searched"
    assert (root / "costs" / "debug.json").read_bytes() == before, "measured once"


def score_of(study, overrides):
    """Return a made-up top-1 whose best learning rate differs between steps."""
    best = {"debug_small": -2.9, "debug": -2.5, "debug_large": -2.1}[study.folder.root.name]
    return 0.9 - 0.5 * abs(math.log10(overrides["optim.lr"]) - best)


def searching(*, kill_after=math.inf):
    """Return a search that scores points without training; it is interrupted after some trials."""
    begun = []

    def search(study, plan):
        record, stops = study._optuna(), Stops(None, max_epochs=1)
        recover(record, study.folder)
        points = StudySearch(
            study.space, record, study.folder,
            max_epochs=1, stops=stops, num_slots=lambda: 1, missing=plan.missing,
        )  # fmt: skip
        while (point := points.suggest(str(len(begun)))) is not None:
            begun.append(point)
            if len(begun) > kill_after:
                return Outcome([], missing=1, interrupted=True)
            top1 = score_of(study, point["overrides"])
            epoch = {"epoch": 1, "seconds": 1.0, "val_top1": top1, "val_loss": 1.0, "best_val_top1": top1}
            epoch |= {"best_epoch": 1, "val_videos": 1000}
            (study.folder.trial(point["folder"]) / "history.jsonl").write_text(json.dumps(epoch) + "\n")
            study.folder.finish(point["folder"], TrialState.COMPLETE)
            points.on_trial_complete(str(len(begun) - 1), {"objective": top1, "epoch": 1})
        return Outcome([], missing=0)

    return search


def points_of(root, name):
    """Return the points of a step's trials that have ended."""
    trials = StudyFolder(root / "rungs" / name).trials()
    return [(t.overrides["optim.lr"], t.overrides["method.prompts"]) for t in trials if t.state.has_ended]


THREE = {"backbone.name": ["debug_small", "debug", "debug_large"]}


@pytest.fixture
def sharing(ladder, tiny_cache, tmp_path, monkeypatch):
    """Return a function that makes the run of a ladder of 3 steps with 2 own trials and 1 shared point."""
    monkeypatch.setattr("evclip_ray.scaling.tables.cost_of", lambda *args, **options: None)

    def make(share_points=1, **study):
        made = dataclasses.replace(ladder(THREE, **{"trials": 2, **study}), share_points=share_points)
        # Seeds differ between steps here, so that each step draws other points.
        steps = tuple(
            dataclasses.replace(step, space=step.space.replace(study={"seed": seed}))
            for seed, step in enumerate(made.steps)
        )
        made = dataclasses.replace(made, steps=steps)
        return LadderRun(made, tmp_path / "ladder", cache=tiny_cache, measure=False)

    return make


def climb_alone(run, search):
    return run.run(MACHINES, prepare=lambda study: None, search=search)


def test_best_points_are_evaluated_at_every_step(sharing, tmp_path):
    run = sharing()
    assert [plan.missing for plan in run.plan(MACHINES).values()] == [4, 4, 4], "2 own and at most 2 shared"
    states = climb_alone(run, searching())
    assert [state.state for state in states] == ["finished"] * 3
    points = [points_of(tmp_path / "ladder", name) for name in THREE["backbone.name"]]
    assert [len(step) for step in points] == [4, 4, 4]
    own = [set(step[:2]) for step in points]
    assert not own[0] & own[1], "each step is searched alone"
    common = set.intersection(*map(set, points))
    assert len(common) == 3
    assert all(len(common & step) == 1 for step in own)
    assert [row["shared_points"] for row in table(tmp_path / "ladder", "ladder")] == ["2"] * 3
    again = sharing()
    assert [plan.missing for plan in again.plan(MACHINES).values()] == [0, 0, 0]
    _, searched = climb(again, search=searching())
    assert searched == [], "a finished ladder shares no further points"


@pytest.mark.parametrize("kill_after", [1, 6, 7, 9])
def test_shared_points_continue_after_a_kill(sharing, tmp_path, kill_after):
    states = climb_alone(sharing(), searching(kill_after=kill_after))
    assert "interrupted" in {state.state for state in states}
    states = climb_alone(sharing(), searching())
    assert [state.state for state in states] == ["finished"] * 3
    points = [points_of(tmp_path / "ladder", name) for name in THREE["backbone.name"]]
    assert [len(step) for step in points] == [len(set(step)) for step in points] == [4, 4, 4]
    assert len(set.intersection(*map(set, points))) == 3


def test_finished_ladder_can_share_points_later(sharing, tmp_path):
    climb_alone(sharing(share_points=0), searching())
    more = sharing(trials=3)
    assert [plan.missing for plan in more.plan(MACHINES).values()] == [3, 3, 3]
    climb_alone(more, searching())
    climb_alone(sharing(trials=4), searching())
    points = [points_of(tmp_path / "ladder", name) for name in THREE["backbone.name"]]
    assert min(len(step) for step in points) >= 6, "4 own and 2 shared"
    assert len(set.intersection(*map(set, points))) >= 3


def test_shared_points_need_a_number_of_trials(ladder, tiny_cache, tmp_path):
    shared = dataclasses.replace(ladder(), share_points=2)
    with pytest.raises(ConfigError, match="Give --trials instead of --device-hours"):
        LadderRun(shared, tmp_path / "ladder", cache=tiny_cache, device_hours=1.0)


def test_step_of_an_earlier_version_names_its_warm_start(sharing, tmp_path):
    run = sharing(share_points=0)
    climb_alone(run, searching())
    step = StudyFolder(tmp_path / "ladder" / "rungs" / "debug")
    step.note(warm_start=[{"folder": "/elsewhere/rungs/debug_small", "points": [], "evidence": 0}])
    climb_alone(sharing(share_points=0), searching())
    assert [row["warm_start"] for row in table(tmp_path / "ladder", "ladder")] == ["", "debug_small", ""]


def test_device_hours_sum_all_trials_of_a_step(ladder, tiny_cache, tiny_videos, local_ray, tmp_path):
    one_step = ladder({"backbone.name": ["debug"]}, trials=None)
    run = LadderRun(one_step, tmp_path / "ladder", cache=tiny_cache, device_hours=1.0, measure=False)
    plan = run.plan(MACHINES)["debug"]
    assert plan.time_budget == pytest.approx(1800), "two CPUs use a device-hour in half an hour"
    assert math.isinf(plan.missing)
    run.folder.claim(one_step.identity())
    trial = run.folder.step("debug") / "trials" / "trial-0000"
    trial.mkdir(parents=True)
    (trial / "point.json").write_text(json.dumps({"overrides": {}}))
    epoch = {
        "epoch": 1,
        "seconds": 3000.0,
        "val_top1": 0.5,
        "val_loss": 1.0,
        "best_epoch": 1,
        "val_videos": 6,
    }
    (trial / "history.jsonl").write_text(json.dumps(epoch) + "\n")
    step = one_step.steps[0]
    assert run._seconds_left(step, plan) == pytest.approx(300)
    (trial / "history.jsonl").write_text(json.dumps({**epoch, "seconds": 4000.0}) + "\n")
    # The test wrote the trial itself, so the study's ledger is missing.
    write_ledger(run.folder.step("debug"), "study", inputs=identity(step.space))
    states, searched = climb(run)
    assert ([state.state for state in states], searched) == (["finished"], [])


def test_missing_trials_and_nan_metrics_give_empty_cells(ladder, tiny_cache, tmp_path):
    run = LadderRun(ladder(), tmp_path / "ladder", cache=tiny_cache, measure=False)
    run.folder.claim(run.ladder.identity())
    trial = run.folder.step("debug") / "trials" / "trial-0000"
    trial.mkdir(parents=True)
    (trial / "point.json").write_text(json.dumps({"overrides": {"optim.lr": 0.01}}))
    diverged = {
        "epoch": 1,
        "seconds": 1.0,
        "diverged": True,
        "best_epoch": 0,
        "val_videos": 6,
        "val_loss": math.nan,
    }
    (trial / "history.jsonl").write_text(json.dumps(diverged) + "\n")
    (trial / "result.json").write_text(json.dumps({"state": "diverged"}))
    rows = write_tables(run.folder, run.ladder, measure=False)
    assert [row["state"] for row in rows] == ["not begun", "not begun"]
    assert all(math.isnan(row["val_top1"]) for row in rows)
    assert [row["trials"] for row in rows] == [0, 1]
    assert [row["val_top1"] for row in table(tmp_path / "ladder", "ladder")] == ["", ""]
    assert best_trial([]) is None


def test_cost_of_a_ladder_is_the_sum_of_its_steps(ladder, tiny_cache, tiny_videos, tmp_path):
    run = LadderRun(ladder(trials=3), tmp_path / "ladder", cache=tiny_cache, measure=False)
    plans = run.plan(MACHINES, measure=True)
    each = [plan.cost.once_seconds + 2 * plan.cost.trial_seconds for plan in plans.values()]
    assert total_seconds(plans) == pytest.approx(sum(each)), "three trials on two slots take two rounds"
    assert not (tmp_path / "ladder").exists()


def test_ladder_on_other_videos_is_refused(ladder, tiny_manifest, tiny_cache, tiny_videos, tmp_path):
    listed = tmp_path / "listed.csv"
    lines = tiny_manifest.read_text().splitlines()
    listed.write_text("\n".join(lines))
    fixed = {"data.manifest": str(listed), "data.root": str(tiny_manifest.parent)}
    run = LadderRun(ladder(fixed=fixed), tmp_path / "ladder", cache=tiny_cache, measure=False)
    run.plan(MACHINES)
    run.folder.claim(run.ladder.identity())
    step = run._study(run.ladder.steps[0])
    step.plan(MACHINES)
    step.claim()
    step.prepare()
    listed.write_text("\n".join(line for line in lines if line != lines[1]))
    with pytest.raises(
        ArtifactError, match=r"ladder: its videos .* \(1 removed: .* new ladder in another --out"
    ):
        run.plan(MACHINES)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--ladder", "RN50,ViT-B-61"], "'ViT-B-61' is unknown; did you mean 'ViT-B-16'"),
        (["--ladder", "debug,debug"], "the step 'debug' is listed twice"),
        (["--over", "optim.lrr=1,2"], "did you mean 'optim.lr'"),
        (["--over", "data.shots"], "--over needs PATH=VALUE"),
        (["--ladder", "debug", "--over", "data.shots=1"], "give one of them"),
    ],
)
def test_command_line_error_is_one_line(arguments, expected, tiny_manifest, tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(
        main, ["scale", "debug", "--data", str(tiny_manifest), "--out", str(out), *arguments]
    )
    assert result.exit_code == 1
    assert expected in result.output
    assert result.output.count("\n") == 1
    assert not out.exists()


@pytest.fixture
def scale(monkeypatch, tiny_manifest, debug_settings, tmp_path):
    """Return a function that runs `evclip-ray scale` without a cluster, with given final states."""
    path = tmp_path / "tiny.yaml"
    fixed = {**debug_settings, "data.manifest": str(tiny_manifest)}
    path.write_text(yaml.safe_dump({"fixed": fixed, "search": SEARCH, "study": {"memory_gb": 0.5}}))

    def call(*ends):
        def run(ladder, machines, **steps):
            ladder.folder.root.mkdir(parents=True)
            ladder.folder.claim(ladder.ladder.identity())
            ladder.rows = write_tables(ladder.folder, ladder.ladder, measure=False)
            return [StepState(f"rung{i}", {}, *end) for i, end in enumerate(ends)]

        monkeypatch.setattr("evclip_ray.cluster.connect", lambda *a, **k: contextlib.nullcontext(MACHINES))
        monkeypatch.setattr(LadderRun, "run", run)
        out = tmp_path / "out"
        arguments = ["scale", str(path), "--ladder", "debug_small,debug", "--out", str(out), "--trials", "1"]
        return CliRunner().invoke(main, arguments)

    return call


def test_command_succeeds_if_every_step_did(scale):
    result = scale(["finished"], ["finished"])
    assert result.exit_code == 0, result.output
    assert "evclip-ray report" in result.output
    assert "importance at step debug: too few trials: 0, 8 are needed" in result.output
    assert "debug_small" in result.output


def test_failed_step_sets_the_exit_status(scale):
    result = scale(["failed", "OSError: the disk is on fire"], ["finished"])
    assert result.exit_code == 1
    assert "1 of 2 steps failed (rung0). The first error: OSError: the disk is on fire" in result.output


def test_ctrl_c_prints_the_command_to_continue(scale):
    result = scale(["finished"], ["interrupted"])
    assert result.exit_code == 130
    assert "Resume with:" in result.output


def test_wrong_paths_of_every_step_are_found_before_it_starts(ladder, tiny_manifest, tmp_path):
    lost = tmp_path / "lost.csv"
    lost.write_text("path,label\nelsewhere/1.mp4,hug\nelsewhere/2.mp4,kick\n")
    steps = ladder({"data.manifest": [str(tiny_manifest), str(lost)]})
    run = LadderRun(steps, tmp_path / "ladder", cache=tmp_path)
    name = steps.steps[1].name
    with pytest.raises(ConfigError, match=rf"^step {name}: .*lost\.csv: 2 of 2 videos are missing"):
        run.check_videos()
    assert not (tmp_path / "ladder").exists()


def test_one_list_of_all_steps_is_read_once(ladder, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("evclip_ray.scaling.ladder.check_source", lambda *given, **_: read.append(given))
    LadderRun(ladder({"data.shots": [1, 2, 3]}), tmp_path / "ladder", cache=tmp_path).check_videos()
    assert len(read) == 1
