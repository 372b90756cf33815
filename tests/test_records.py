"""Typed records: what they keep of the disk format, and the table of metrics."""

import pytest

from evclip_ray.records import (
    METRICS,
    EpochMetrics,
    LeaderboardRow,
    TrialRecord,
    TrialState,
    other_weights,
    random_weights_warning,
)


def test_states_that_ended_and_that_have_a_score():
    assert [state for state in TrialState if not state.has_ended] == ["running", "paused"]
    assert [state for state in TrialState if state.has_final_score] == ["complete", "stopped", "diverged"]


def test_epoch_keeps_unknown_keys_and_their_order():
    line = {"epoch": 2, "train_consistency": 0.1, "of_the_future": [1], "train_loss": 0.2, "seconds": 1.0}
    metrics = EpochMetrics.from_record(line)
    assert list(metrics.to_record().items()) == list(line.items())
    assert metrics.loss_terms == {"consistency": 0.1}


def test_epoch_tolerates_missing_keys():
    metrics = EpochMetrics.from_record({"epoch": 1, "best_epoch": None})
    assert (metrics.best_epoch, metrics.val_videos, metrics.diverged) == (0, 0, False)
    assert metrics.number("train_seconds", 0.0) == 0.0
    assert metrics.val_top1 != metrics.val_top1, "NaN"


def test_best_epoch_without_finite_score_is_empty():
    epochs = [{"epoch": 1, "best_epoch": 1, "val_top1": float("nan")}]
    record = TrialRecord("trial-0000", {}, history=tuple(map(EpochMetrics, epochs)))
    assert record.best == EpochMetrics()
    assert TrialRecord("trial-0001", {}).last == EpochMetrics()


def test_leaderboard_columns_are_those_on_disk():
    assert list(LeaderboardRow("t", extra={"val_ece": 0.1}).columns()) == [
        *("rank", "trial", "state", "val_top1", "val_top1_low", "val_top1_high", "zero_shot_top1"),
        *("val_top5", "val_loss", "best_epoch", "epochs", "last_top1", "leaking_rows", "train_seconds"),
        *("seconds", "point_seeds", "point_top1", "point_top1_low", "point_top1_high"),
        *("corrected_top1", "corrected_top1_low", "corrected_top1_high", "chosen_from", "corrected_note"),
        *("selection", "train_videos", "val_videos", "val_per_train", "conditions", "val_ece"),
    ]


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("val_top1", "val/top1"),
        ("best_val_top1", "val/best_top1"),
        ("lr", "run/lr"),
        ("train_seconds", "train/seconds"),
        ("mask_coverage", "mask/coverage"),
        ("epoch", ""),
    ],
)
def test_tensorboard_tags_are_those_of_earlier_versions(name, tag):
    assert METRICS[name].tag == tag


def test_axis_titles_have_split_and_unit():
    assert METRICS["val_top1"].title == "validation top-1"
    assert METRICS["val_loss"].title == "validation loss, nats"


def test_random_weights_are_listed_in_the_warning():
    warning = random_weights_warning({"clip": "random", "video_encoder": "random", "text": "openai"})
    assert warning.startswith("RANDOM WEIGHTS in clip and video_encoder: ")
    assert "backbone.pretrained (CLIP) and method.video_encoder.weights (video encoder)" in warning
    assert random_weights_warning({"clip": "openai"}) is None


def curve(*scores, diverged=False):
    """Return the history of a trial; None is an epoch without a score."""
    history = [
        EpochMetrics({"epoch": e, "val_top1": s, "val_top5": 1.0, "val_loss": 2.0 * s, "seconds": 1.0})
        for e, s in enumerate(scores, start=1)
    ]
    best = [max(scores[:e]) for e in range(1, len(scores) + 1)]
    history = [
        EpochMetrics({**epoch.values, "best_val_top1": b, "best_epoch": 1 + scores.index(b)})
        for epoch, b in zip(history, best, strict=True)
    ]
    ended = EpochMetrics({**history[-1].values, "epoch": len(history) + 1, "diverged": True})
    del ended.values["val_top1"]
    return (*history, ended) if diverged else tuple(history)


@pytest.mark.parametrize(
    ("objective", "values", "top1", "epoch"),
    [
        ("best", [0.25, 0.75, 0.75], 0.75, 2),
        ("last", [0.25, 0.75, 0.5], 0.5, 3),
        ("mean_of_last_2", [0.25, 0.5, 0.625], 0.625, 3),
    ],
)
def test_scores_of_a_trial_follow_the_objective(objective, values, top1, epoch):
    record = TrialRecord("trial-0000", {}, history=curve(0.25, 0.75, 0.5), objective=objective)
    assert list(record.values_by_epoch.values()) == values
    assert (record.best.val_top1, record.best.epoch) == (top1, epoch)
    assert record.best.number("val_loss") == 2 * top1


@pytest.mark.parametrize(("objective", "value"), [("best", 0.75), ("last", 0.0), ("mean_of_last_3", 0.0)])
def test_diverged_trial_has_no_usable_last_epoch(objective, value):
    record = TrialRecord("trial-0000", {}, history=curve(0.25, 0.75, diverged=True), objective=objective)
    assert record.values_by_epoch[3] == value
    assert record.best.number("val_top1", 0.0) == value


@pytest.mark.parametrize(
    ("recorded", "present", "message"),
    [
        (
            {"clip": "openai", "video_encoder": "file:0123"},
            {"clip": "random", "video_encoder": "file:0123"},
            "clip was openai and is random (backbone.pretrained and backbone.activation select them)",
        ),
        (
            {"clip": "openai", "video_encoder": "file:0123"},
            {"clip": "openai", "video_encoder": "file:4567"},
            "video_encoder was file:0123 and is file:4567 (method.video_encoder.weights selects them)",
        ),
        (
            {"clip": "world:0123"},
            {"clip": "world:4567"},
            "clip was world:0123 and is world:4567 (weights of another version of evclip-ray: install that "
            "version, or train again)",
        ),
        (
            {"clip": "world:0123"},
            {"clip": "random"},
            "clip was world:0123 and is random (backbone.pretrained and backbone.activation select them)",
        ),
        (
            {"clip": "world:0123"},
            {"clip": "world:0123 (quickgelu)"},
            "clip was world:0123 and is world:0123 (quickgelu) (backbone.pretrained and "
            "backbone.activation select them)",
        ),
        (
            {"clip": "openai"},
            {"clip": "openai", "video_encoder": "random"},
            "video_encoder was none and is random (method.video_encoder.weights selects them)",
        ),
    ],
)
def test_other_weights_are_named_with_their_setting(recorded, present, message):
    assert other_weights(recorded, present) == message
