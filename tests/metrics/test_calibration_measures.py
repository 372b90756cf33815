"""Measures of a calibration on evaluated videos."""

import json

import numpy as np
import pytest

from evclip_ray.metrics.calibration import Calibration, ValidationFacts
from evclip_ray.metrics.calibration_measures import calibration_lines, measure_calibration, sums_interval
from evclip_ray.metrics.classification import ClassificationState
from evclip_ray.metrics.scoring import Scores

CLASSES = tuple("abcde")


@pytest.fixture(scope="module")
def scores(drawn):
    logits, labels = drawn(160, 4.0)
    return Scores(logits.astype(np.float32), labels)


def measured(scores, groups=None, classes=CLASSES, **settings):
    calibration = Calibration(temperature=4.0, classes=CLASSES, **settings)
    return measure_calibration(calibration, scores, classes, groups, videos="digest")


def test_before_and_after_are_those_of_the_classification_metrics(scores):
    record = measured(scores).record
    states = [ClassificationState.of(scores.logits / t, scores.labels) for t in (1, 4)]
    assert record["calibration_error"] == pytest.approx([s.calibration_error for s in states], abs=1e-6)
    assert record["log_loss"] == pytest.approx([s.log_loss for s in states], abs=1e-6)
    assert record["calibration_error_change_interval"][1] < 0
    for value, (low, high) in zip(record["log_loss"], record["log_loss_interval"], strict=True):
        assert low < value < high
    assert json.loads(json.dumps(record)) == record


def test_small_error_of_a_calibrated_model_is_in_the_interval(drawn):
    """The error itself is far above 0, because noise adds to it."""
    logits, labels = drawn(200)
    calibration = Calibration(temperature=1.0, classes=CLASSES)
    record = measure_calibration(calibration, Scores(logits.astype(np.float32), labels), CLASSES).record
    assert record["calibration_error"][1] > 0.04
    assert record["calibration_error_interval"][1][0] < 0.01


def test_bins_hold_every_video_once(scores):
    bins = measured(scores).bins
    for name in ("before", "after"):
        rows = [row for row in bins if row[0] == name]
        assert sum(row[3] for row in rows) == 160
        assert all(low < confidence <= high for _, low, high, _, confidence, _ in rows)


def test_rejection_and_sets_are_measured_with_intervals(scores):
    record = measured(scores, unknown_below=0.6, conformal_level=0.9, conformal_quantile=0.85).record
    rejection, conformal = record["rejection"], record["conformal"]
    assert rejection["risk"] < 1 - scores.right.mean()
    assert rejection["risk_interval"][0] < rejection["risk"] < rejection["risk_interval"][1]
    assert rejection["accepted"] == round(160 * rejection["coverage"])
    assert conformal["coverage_interval"][0] < conformal["coverage"] < conformal["coverage_interval"][1]
    assert 1 < conformal["mean_size"] < 5
    assert conformal["mean_size_interval"][0] < conformal["mean_size"] < conformal["mean_size_interval"][1]
    assert "no video is accepted" in " ".join(calibration_lines(measured(scores, unknown_below=1.0).record))


def test_intervals_are_wider_over_groups(scores):
    order = np.argsort(scores.right)
    groups = np.empty(160, np.int64)
    groups[order] = np.arange(160) // 8
    widths = [
        np.diff(measured(scores, each).record["log_loss_interval"][1]).item() for each in (None, groups)
    ]
    assert widths[1] > 1.5 * widths[0]


def test_single_group_has_no_interval(drawn):
    value, interval = sums_interval(
        np.array([[1.0], [3.0]]), lambda sums: sums[..., 0], np.zeros(2, np.int64)
    )
    assert (value, interval) == (4, None)
    logits, labels = drawn(3)
    record = measured(Scores(logits.astype(np.float32), labels), np.zeros(3, np.int64)).record
    assert record["log_loss_interval"] == [None, None]
    assert any(line.startswith("log loss") for line in calibration_lines(record))


def test_other_classes_and_fitted_videos_are_remarked(scores):
    other = measured(scores, classes=tuple("vwxyz"), unknown_below=0.6).record
    assert other["rejection"] is None
    assert "not the classes of the checkpoint" in " ".join(calibration_lines(other))
    facts = ValidationFacts(
        num_videos=160, videos="digest", top1=0.5, calibration_error=(0.2, 0.1), log_loss=(2.0, 1.0)
    )
    same = measured(scores, validation=facts).record
    assert "fitted on these videos" in " ".join(calibration_lines(same))
    assert same["temperature_only"] is False
