"""Selection of a study's checkpoints: what it shows, what it writes, and what earlier studies keep."""

import csv

import pytest

from evclip_ray.artifacts import write_json
from evclip_ray.training.resources import GIB
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.study_view import trial_experiment, with_own_view
from evclip_ray.tuning.tuner import StudyRun

MACHINES = [{"CPU": 2.0, "memory": 8.0 * GIB}]
SEARCH = {"optim.lr": {"choice": [0.01, 0.02]}}
PRESET = {"data": {"manifest": "x.csv"}, "preset": "published"}


def space_of(fixed, **study):
    return SearchSpace.load("space", {"fixed": fixed, "search": SEARCH, "study": study})


def test_preset_of_a_new_study_names_the_selection():
    space = with_own_view(space_of(PRESET), [])
    assert space.fixed["data"]["selection"] == "last_epoch"
    assert trial_experiment(space.fixed, {}).data.selection == "last_epoch"


def test_preset_of_an_earlier_study_keeps_its_selection(tmp_path):
    write_json(tmp_path / "fixed.json", PRESET)
    space = with_own_view(space_of(PRESET), [tmp_path / "fixed.json"])
    assert space.experiment().data.selection is None
    assert trial_experiment(PRESET, {}).data.selection is None
    # The study writes its settings again when it goes on.
    write_json(tmp_path / "fixed.json", dict(space.fixed))
    assert with_own_view(space_of(PRESET), [tmp_path / "fixed.json"]).experiment() == space.experiment()


@pytest.fixture
def kshot_list(tiny_manifest, tmp_path):
    """Return a list with two training videos per class, and the others as test videos."""
    rows = list(csv.DictReader(tiny_manifest.open()))
    taken = dict.fromkeys((row["label"] for row in rows), 0)
    for row in rows:
        row["split"] = "train" if taken[row["label"]] < 2 else "test"
        row["group"] = ""
        taken[row["label"]] += 1
    with (tmp_path / "list.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "list.csv"


@pytest.mark.slow
def test_study_of_a_kshot_list_is_scored_by_folds(
    kshot_list, tiny_manifest, debug_settings, local_ray, tmp_path
):
    data = {"data.manifest": str(kshot_list), "data.root": str(tiny_manifest.parent)}
    fixed = {**debug_settings, **data, "optim.epochs": 2, "data.bank": 1}
    run = StudyRun(space_of(fixed, trials=1, scheduler="none"), tmp_path / "study", cache=tmp_path / "cache")
    plan = run.plan(MACHINES, measure=True)
    lines = dict(plan.lines())
    assert lines["selection"].startswith("last epoch on all 12 training videos, scored by 2-fold cross-")
    assert "in 3 runs (2 folds and all shots)" in dict(reversed(plan.lines()))["a trial"]
    assert plan.cost.val_videos == 12
    run.claim()
    run.prepare()
    outcome = run.run(plan, lambda event, record: None)
    (row,) = outcome.rows
    assert (row.selection, row.train_videos, row.val_videos, row.val_per_train) == ("last_epoch", 12, 12, 1.0)
    assert row.best_epoch == 2
    (recorded,) = run.folder.ledger()["selection"].values()
    assert recorded["folds"] == 2
    assert recorded["val_per_train"] == 1.0
    board = next(csv.DictReader((run.folder.root / "leaderboard.csv").open()))
    assert (board["selection"], board["train_videos"], board["val_per_train"]) == ("last_epoch", "12", "1")
    # Test videos are neither decoded nor scored: there is one set of shards.
    assert len(list((tmp_path / "cache" / "shards").glob("[!.]*"))) == 1
