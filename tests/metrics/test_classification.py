import math

import numpy as np
import pytest

from evclip_ray.metrics.classification import TICKS, ClassificationState, harmonic_mean

NUM_CLASSES = 9


def scores(num_videos, num_classes=NUM_CLASSES, seed=0):
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=(num_videos, num_classes)).astype(np.float32), rng.integers(
        num_classes, size=num_videos
    )


def test_metrics_of_three_videos_worked_by_hand():
    logits = np.array([[3.0, 1, 0], [0, 2, 1], [5, 1, 0]], np.float32)
    state = ClassificationState.of(logits, np.array([0, 2, 0]))
    assert state.top1 == pytest.approx(2 / 3)
    assert state.confusion.tolist() == [[2, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert state.mean_class_accuracy == pytest.approx(0.5)
    assert math.isnan(state.per_class[1])
    expected = -sum(
        math.log(math.exp(a) / sum(map(math.exp, row)))
        for a, row in ((3, [3, 1, 0]), (1, [0, 2, 1]), (5, [5, 1, 0]))
    )
    assert state.log_loss == pytest.approx(expected / 3, abs=2 / TICKS)


@pytest.mark.parametrize("batch_size", range(1, 8))
@pytest.mark.parametrize("workers", range(1, 8))
def test_merged_states_equal_single_worker_state_exactly(workers, batch_size):
    for num_videos in (3, 23):
        logits, labels = scores(num_videos)
        whole = ClassificationState.of(logits, labels)
        merged = ClassificationState.empty(NUM_CLASSES)
        for rank in range(workers):
            mine = np.arange(num_videos)[rank::workers]
            for start in range(0, len(mine), batch_size):
                batch = mine[start : start + batch_size]
                merged += ClassificationState.of(logits[batch], labels[batch])
        assert (merged.packed() == whole.packed()).all()
        assert merged.num_videos == num_videos
        assert merged.log_loss == whole.log_loss
        assert merged.calibration_error == whole.calibration_error


def test_packed_state_unpacks_to_same_state():
    state = ClassificationState.of(*scores(12))
    again = ClassificationState.unpacked(state.packed(), NUM_CLASSES)
    assert (again.packed() == state.packed()).all()
    assert again.top5 == state.top5


def test_calibration_error_matches_definition():
    logits, labels = scores(400)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    confidence, correct = p.max(1), p.argmax(1) == labels
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert ClassificationState.of(logits, labels).calibration_error == pytest.approx(expected, abs=1e-6)


def test_calibration_error_of_confident_predictions():
    logits = np.array([[40.0, 0], [0, 40.0]], np.float32)
    assert ClassificationState.of(logits, np.array([0, 1])).calibration_error == pytest.approx(0, abs=1e-6)
    assert ClassificationState.of(logits, np.array([1, 0])).calibration_error == pytest.approx(1)


def test_nan_logits_raise_with_count():
    logits, labels = scores(4)
    logits[2, 1] = np.nan
    with pytest.raises(ValueError, match="those of 1 of 4 videos"):
        ClassificationState.of(logits, labels)


def test_top5_counts_ties_as_misses():
    state = ClassificationState.of(np.zeros((1, 8), np.float32), np.array([0]))
    assert state.top5_hits == 0


def test_top5_is_one_with_five_classes():
    assert ClassificationState.of(*scores(20, num_classes=5)).top5 == 1.0


def test_harmonic_mean_of_unequal_values_and_of_zeros():
    assert harmonic_mean(0.8, 0.4) == pytest.approx(2 * 0.32 / 1.2)
    assert harmonic_mean(0.0, 0.0) == 0.0
