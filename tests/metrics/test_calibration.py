"""Temperature, calibration file and its owner."""

import json

import numpy as np
import pytest

from evclip_ray.artifacts import ArtifactError
from evclip_ray.metrics.calibration import FILE, Calibration, fit_temperature, softmax

CLASSES = ("run", "walk", "wave")


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0, 40.0])
def test_temperature_undoes_a_scale_of_the_logits(scale, drawn):
    fit = fit_temperature(*drawn(4000, scale))
    assert fit.temperature == pytest.approx(scale, rel=0.05)
    assert fit.warnings == ()


def test_temperature_is_the_minimum_of_the_log_loss(drawn):
    logits, labels = drawn(60, 3.0)
    best = fit_temperature(logits, labels).temperature
    losses = [
        -np.log(softmax(logits, t)[np.arange(60), labels]).mean() for t in (0.98 * best, best, 1.02 * best)
    ]
    assert losses[1] < min(losses[0], losses[2])


def test_temperature_stays_one_if_every_video_is_right(drawn):
    logits, _ = drawn(40)
    fit = fit_temperature(logits, logits.argmax(axis=1))
    assert fit.temperature == 1
    assert "40 of 40 are right" in fit.warnings[0]


def test_temperature_is_its_bound_if_every_video_is_wrong(drawn):
    logits, _ = drawn(40)
    fit = fit_temperature(logits, logits.argmin(axis=1))
    assert fit.temperature == 100
    assert "0 of 40 are right" in fit.warnings[0]


def test_few_videos_and_one_class_are_warned_of(drawn):
    logits, _ = drawn(6)
    warnings = fit_temperature(logits, np.zeros(6, np.int64)).warnings
    assert any("6 validation videos are few" in warning for warning in warnings)
    assert any("have one class" in warning for warning in warnings)


@pytest.mark.parametrize("logits", [np.zeros((0, 3)), np.array([[0.0, np.nan, 1.0]])])
def test_temperature_needs_finite_logits(logits):
    with pytest.raises(ValueError, match="needs videos with finite logits"):
        fit_temperature(logits, np.zeros(len(logits), np.int64))


def test_probabilities_are_the_softmax_of_scaled_logits():
    calibration = Calibration(temperature=2.0, classes=CLASSES)
    probabilities = calibration.probabilities(np.array([[2.0, 0.0, 0.0], [2000.0, 0.0, -2000.0]], np.float32))
    assert probabilities.dtype == np.float64
    expected = np.exp([1.0, 0.0, 0.0]) / np.exp([1.0, 0.0, 0.0]).sum()
    np.testing.assert_allclose(probabilities, [expected, [1, 0, 0]], atol=1e-12)


def test_threshold_and_sets_are_applied_where_they_are_fitted():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.4, 0.3, 0.3]])
    plain = Calibration(temperature=1.0, classes=CLASSES)
    assert plain.is_unknown(probabilities).tolist() == [False, False]
    assert plain.prediction_sets(probabilities) is None
    fitted = plain.model_copy(
        update={"unknown_below": 0.45, "conformal_level": 0.8, "conformal_quantile": 0.75}
    )
    assert fitted.is_unknown(probabilities).tolist() == [False, True]
    assert fitted.prediction_sets(probabilities).tolist() == [[True, True, False], [True, True, True]]


def test_other_classes_keep_the_temperature_alone():
    fitted = Calibration(temperature=2.0, classes=CLASSES, unknown_below=0.4, conformal_quantile=0.5)
    assert fitted.for_classes(CLASSES[::-1]).unknown_below == 0.4
    other = fitted.for_classes(("jump", "run"))
    assert (other.temperature, other.unknown_below, other.conformal_quantile) == (2.0, None, None)
    assert other.classes == ("jump", "run")


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"classes": CLASSES}))
    (tmp_path / "checksums.json").write_text(json.dumps({"adapter.safetensors": [10, 77]}))
    return tmp_path


def test_file_gives_back_what_was_written(checkpoint):
    assert Calibration.read(checkpoint) is None
    written = Calibration(temperature=1 / 3, classes=CLASSES, unknown_below=0.1 + 0.2, adapter=(10, 77))
    written.write(checkpoint)
    assert Calibration.read(checkpoint) == written


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"temperature": 0, "classes": ["run", "walk", "wave"]}',
        '{"temperature": NaN, "classes": ["run"]}',
    ],
)
def test_damaged_file_is_named_with_the_fix(checkpoint, text):
    (checkpoint / FILE).write_text(text)
    with pytest.raises(ArtifactError, match=r"calibration\.json.*damaged.*--calibrate, or remove the file"):
        Calibration.read(checkpoint)


def test_calibration_of_other_classes_is_refused(checkpoint):
    Calibration(temperature=1.0, classes=("run", "swim")).write(checkpoint)
    with pytest.raises(ArtifactError, match=r"is for 2 classes \(run, swim\), but the checkpoint has 3"):
        Calibration.read(checkpoint)


def test_calibration_of_other_tensors_is_refused(checkpoint):
    Calibration(temperature=1.0, classes=CLASSES, adapter=(10, 78)).write(checkpoint)
    with pytest.raises(ArtifactError, match="fitted to another checkpoint"):
        Calibration.read(checkpoint)
