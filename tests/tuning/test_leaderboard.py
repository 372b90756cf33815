"""Order of the leaderboard and means over the seeds of a point."""

import dataclasses
import io
import math

import pytest

from evclip_ray.cli.display import PlainConsole, best_of_each_table, leaderboard_table
from evclip_ray.records import EpochMetrics, TrialRecord, TrialState
from evclip_ray.tuning.leaderboard import SCORES, as_csv, best_of_each, leaderboard


def trial(name, top1, *, lr, seed=0, state="complete", loss=1.0):
    epoch = {
        "epoch": 1,
        "best_epoch": 1,
        "val_top1": top1,
        "best_val_top1": top1,
        "val_loss": loss,
        "val_videos": 100,
        "seconds": 1.0,
    }
    overrides = {"optim.lr": lr} | ({"seed": seed} if seed else {})
    history = [] if state == "failed" else [epoch]
    return TrialRecord(name, overrides, TrialState(state), None, tuple(map(EpochMetrics, history)))


def test_points_are_ranked_by_mean_over_seeds():
    rows = leaderboard(
        [
            trial("lucky", 0.9, lr=1.0),
            trial("again", 0.3, lr=1.0, seed=1),
            trial("a", 0.7, lr=2.0),
            trial("b", 0.72, lr=2.0, seed=1),
            trial("c", 0.68, lr=2.0, seed=2),
        ]
    )
    assert [row.trial for row in rows] == ["b", "a", "c", "lucky", "again"]
    best = rows[0]
    assert best.point_seeds == 3
    assert best.point_top1 == pytest.approx(0.7)
    # 4.303 is the 97.5 % point of Student's t with two degrees of freedom, 0.02 the standard deviation.
    half = 4.303 * 0.02 / math.sqrt(3)
    assert best.point_top1_low == pytest.approx(0.7 - half, abs=1e-4)
    assert best.point_top1_high == pytest.approx(0.7 + half, abs=1e-4)


def test_equal_means_are_ranked_by_number_of_seeds():
    rows = leaderboard(
        [trial("one", 0.5, lr=1.0, loss=0.1), trial("a", 0.5, lr=2.0), trial("b", 0.5, lr=2.0, seed=1)]
    )
    assert [row.trial for row in rows] == ["a", "b", "one"]


def test_stopped_seeds_count_and_failed_ones_do_not():
    rows = leaderboard(
        [
            trial("a", 0.6, lr=1.0),
            trial("b", 0.0, lr=1.0, seed=1, state="failed"),
            trial("c", 0.4, lr=1.0, seed=2, state="stopped"),
        ]
    )
    assert {row.point_seeds for row in rows} == {2}
    assert rows[0].point_top1 == pytest.approx(0.5)


def test_speed_is_the_median_over_epochs():
    epochs = [{"epoch": number, "best_epoch": 1, "val_top1": 0.5, "seconds": 1.0} for number in (1, 2, 3, 4)]
    for epoch, share in zip(epochs[1:], (0.1, 0.5, 0.3), strict=True):
        epoch["matrix_share"] = share
    run = TrialRecord("a", {}, TrialState.COMPLETE, None, tuple(map(EpochMetrics, epochs)))
    header, line = (text.split(",") for text in as_csv(leaderboard([run])).splitlines())
    cells = dict(zip(header, line, strict=True))
    assert cells["matrix_share"] == "0.3"
    assert cells["bare_share"] == "", "not measured"


def test_single_seed_has_no_interval():
    rows = leaderboard([trial("a", 0.6, lr=1.0)])
    assert math.isnan(rows[0].point_top1_low)
    header, line = (text.split(",") for text in as_csv(rows).splitlines())
    cells = dict(zip(header, line, strict=True))
    assert cells["point_top1"] == "0.6"
    assert cells["point_top1_low"] == ""


def test_trial_without_epochs_has_empty_cells():
    diverged = {"epoch": 1, "best_epoch": 0, "diverged": True, "val_videos": 100, "seconds": 1.0}
    rows = leaderboard(
        [
            trial("a", 0.6, lr=1.0),
            dataclasses.replace(trial("b", 0.0, lr=2.0, state="diverged"), history=(EpochMetrics(diverged),)),
            trial("c", 0.0, lr=3.0, state="failed"),
        ]
    )
    header, scored, *others = (line.split(",") for line in as_csv(rows).splitlines())
    for line in others:
        cells = dict(zip(header, line, strict=True))
        assert {cells[name] for name in SCORES} == {""}
        assert cells["best_epoch"] == "0"
    assert dict(zip(header, scored, strict=True))["val_top1"] == "0.6"
    console = PlainConsole(width=140, record=True, file=io.StringIO())
    console.print(leaderboard_table(rows))
    text = console.export_text()
    assert "0.600 (0.50 to 0.69)" in text
    assert "0.000" not in text


@pytest.mark.parametrize(
    ("selection", "title"),
    [
        ([], "Leaderboard: validation split trial"),
        (
            [{"folds": 0, "val_videos": 3, "train_videos": 15, "val_per_train": 0.2}],
            "Leaderboard: validation split, 3 videos for 15 training videos (ratio 0.20)",
        ),
        (
            [{"folds": 4, "val_videos": 24, "train_videos": 24, "val_per_train": 1.0}],
            "Leaderboard: 4-fold cross-validation, 24 training videos (ratio 1.00)",
        ),
    ],
)
def test_title_says_what_scores_the_trials(selection, title):
    console = PlainConsole(width=140, record=True, file=io.StringIO())
    console.print(leaderboard_table(leaderboard([trial("a", 0.6, lr=1.0)]), selection))
    # The title is wrapped to the width of the table.
    assert title in " ".join(console.export_text().split())


def test_nan_score_is_none_and_keeps_the_order():
    rows = leaderboard(
        [
            trial("broken", math.nan, lr=1.0),
            trial("a", 0.6, lr=2.0),
            trial("no_loss", 0.6, lr=3.0, loss=math.nan),
            trial("b", 0.7, lr=4.0),
        ]
    )
    assert [row.trial for row in rows] == ["b", "a", "no_loss", "broken"]
    assert rows[-1].best_epoch == 0
    assert rows[-1].val_top1 == 0.0, "the value is used only for the order"
    assert "nan" not in as_csv(rows)


def of_method(name, top1, method, state="complete"):
    record = trial(name, top1, lr=top1, state=state)
    return dataclasses.replace(record, overrides={**record.overrides, "method.name": method})


def test_best_of_each_value_has_the_number_of_its_trials():
    rows = leaderboard(
        [
            of_method("trial-0000", 0.5, "coop"),
            of_method("trial-0001", 0.7, "aim"),
            of_method("trial-0002", 0.6, "coop"),
            of_method("trial-0003", 0.0, "aim", state="failed"),
            of_method("trial-0004", 0.0, "ez_clip", state="failed"),
        ]
    )
    best = {row["method.name"]: row for row in best_of_each(rows, "method.name")}
    assert list(best) == ["aim", "coop", "ez_clip"]
    assert [row["best_trial"] for row in best.values()] == ["trial-0001", "trial-0002", "trial-0004"]
    assert [(row["trials"], row["failed"]) for row in best.values()] == [(2, 1), (2, 0), (1, 1)]
    assert math.isnan(best["ez_clip"]["val_top1"])
    stream = io.StringIO()
    PlainConsole(file=stream, width=100).print(best_of_each_table(rows, "method.name"))
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    assert "aim 0.700 (0.60 to 0.78) 0001 2, 1 failed" in lines
    assert "ez_clip - 0004 1, 1 failed" in lines
