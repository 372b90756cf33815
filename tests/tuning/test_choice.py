"""The best trial of a study, corrected for its choice."""

import gc
import json
import math

import numpy as np
import pytest

from evclip_ray.artifacts import write_json, write_text
from evclip_ray.metrics.intervals import accuracy_interval, wilson_interval
from evclip_ray.records import EpochMetrics, TrialState
from evclip_ray.training.per_video_scores import EPOCHS_FILE, EpochAnswers
from evclip_ray.tuning import choice
from evclip_ray.tuning.choice import AnsweredTrial
from evclip_ray.tuning.leaderboard import as_csv, leaderboard
from evclip_ray.tuning.study_folder import StudyFolder


def history(right):
    best = int(right.mean(1).argmax()) + 1
    return [
        {
            "epoch": epoch,
            "val_top1": float(each.mean()),
            "val_loss": 1.0,
            "best_epoch": min(best, epoch),
            "best_val_top1": float(right[:epoch].mean(1).max()),
            "val_videos": right.shape[1],
            "seconds": 1.0,
        }
        for epoch, each in enumerate(right, start=1)
    ]


def answers_of(right, *, videos="0123", groups=None, classes=None):
    answers = EpochAnswers.empty(videos, right.shape[1], groups, classes)
    for epoch, each in enumerate(right, start=1):
        answers = answers.with_epoch(epoch, each)
    return answers


def trial(number, right, *, objective="best", overrides=None, **answered):
    epochs = tuple(map(EpochMetrics, history(right)))
    overrides = {"optim.lr": number} if overrides is None else overrides
    answers = answers_of(right, **answered)
    state = TrialState.COMPLETE
    return AnsweredTrial(f"trial-{number:04d}", overrides, state, None, epochs, objective, answers)


def drawn(trials=8, epochs=20, videos=72, seed=0):
    return np.random.default_rng(seed).random((trials, epochs, videos)) < 0.4


def test_first_row_has_the_corrected_score():
    rows = leaderboard(trial(number, right) for number, right in enumerate(drawn()))
    assert rows[0].val_top1 > 0.5
    assert rows[0].corrected_top1 == pytest.approx(0.4, abs=0.08)
    assert rows[0].corrected_top1_low < 0.4 < rows[0].corrected_top1_high
    assert rows[0].chosen_from == "8 trials x 20 epochs"
    assert rows[0].corrected_note == ""
    assert all(math.isnan(row.corrected_top1) for row in rows[1:])
    header, first, second = (line.split(",") for line in as_csv(rows).splitlines()[:3])
    column = header.index("corrected_top1")
    assert float(first[column]) == pytest.approx(rows[0].corrected_top1, abs=1e-5)
    assert second[column] == ""


def test_classes_of_one_trial_count_for_all():
    # A study that an older version began has trials without classes, on the same videos.
    classes = np.arange(48) % 6
    right = (classes == np.arange(6)[:, None])[:, None]
    for known in (classes, None):
        trials = [
            trial(number, each, classes=known if number == 3 else None) for number, each in enumerate(right)
        ]
        top1 = leaderboard(trials)[0].corrected_top1
        assert (top1 == pytest.approx(1 / 6)) == (known is not None)


def test_other_objective_is_chosen_from_trials_only():
    rows = leaderboard(trial(number, right, objective="last") for number, right in enumerate(drawn()))
    assert rows[0].chosen_from == "8 trials"
    assert rows[0].val_top1 > rows[0].corrected_top1


def test_correction_is_missing_without_answers():
    trials = [trial(number, right) for number, right in enumerate(drawn(trials=3))]
    old = AnsweredTrial("trial-0009", {"optim.lr": 9}, TrialState.COMPLETE, None, trials[0].history)
    row = leaderboard([*trials, old])[0]
    assert math.isnan(row.corrected_top1)
    assert row.corrected_note.startswith("1 of 4 trials has no record")
    # A resumed run of an older version lacks the answers of its first epochs.
    late = trials[2].answers
    late = EpochAnswers(late.videos, late.count, late.epochs[5:], late.packed[5:])
    resumed = AnsweredTrial(
        "trial-0002", {"optim.lr": 2}, TrialState.COMPLETE, None, trials[2].history, "best", late
    )
    assert "1 of 3 trials" in leaderboard([*trials[:2], resumed])[0].corrected_note


def test_correction_is_missing_for_different_videos():
    trials = [trial(number, right, videos=str(number)) for number, right in enumerate(drawn(trials=2))]
    assert leaderboard(trials)[0].corrected_note == "the trials were scored on different validation videos"


def test_correction_is_missing_for_one_video_or_one_group():
    for videos, groups, note in ((1, None, "only one validation video"), (9, np.zeros(9, int), "one group")):
        row = leaderboard(trial(n, right, groups=groups) for n, right in enumerate(drawn(videos=videos)))[0]
        assert note in row.corrected_note


def test_bootstrap_of_ended_trials_is_cached_with_them():
    # Trials of earlier tests may be in cycles.
    gc.collect()
    before = len(choice._results)
    trials = [trial(number, right) for number, right in enumerate(drawn(trials=3))]
    leaderboard(trials)
    assert len(choice._results) == before + 3
    del trials
    gc.collect()
    assert len(choice._results) == before


def test_interval_of_a_trial_takes_groups_into_account():
    groups = np.arange(72) // 6
    right = np.repeat(np.random.default_rng(0).random((1, 12)) < 0.6, 6, axis=1)
    plain, grouped = leaderboard([trial(0, right)])[0], leaderboard([trial(0, right, groups=groups)])[0]
    hits = int(right.sum())
    assert (plain.val_top1_low, plain.val_top1_high) == pytest.approx(wilson_interval(hits, 72))
    expected = accuracy_interval(right[0], groups)
    assert (grouped.val_top1_low, grouped.val_top1_high) == pytest.approx(expected)
    assert grouped.val_top1_high - grouped.val_top1_low > plain.val_top1_high - plain.val_top1_low + 0.1


def write_trial(folder, number, right, *, state="complete"):
    path = folder.trial(f"trial-{number:04d}")
    write_json(path / "point.json", {"overrides": {"optim.lr": number}})
    write_text(path / "history.jsonl", "".join(json.dumps(row) + "\n" for row in history(right)))
    last = path / "last"
    last.mkdir()
    for name in ("config.json", "adapter.safetensors"):
        (last / name).write_text("{}")
    answers_of(right).write(last)
    if state != "running":
        write_json(path / "result.json", {"state": state})


def test_study_reads_answers_of_its_trials(tmp_path):
    folder = StudyFolder(tmp_path)
    for number, right in enumerate(drawn(trials=3)):
        write_trial(folder, number, right, state="running" if number == 2 else "complete")
    assert folder.write_leaderboard()[0].chosen_from == "3 trials x 20 epochs"
    assert folder.write_leaderboard()[0].corrected_note == ""
    assert "corrected_top1" in (tmp_path / "leaderboard.csv").read_text()


def test_damaged_answers_leave_a_leaderboard_uncorrected(tmp_path, caplog):
    folder = StudyFolder(tmp_path)
    for number, right in enumerate(drawn(trials=2)):
        write_trial(folder, number, right)
    (folder.trial("trial-0001") / "last" / EPOCHS_FILE).write_bytes(b"not a zip file")
    assert folder.write_leaderboard()[0].corrected_note.startswith("1 of 2 trials")
    assert "cannot be read" in caplog.text
