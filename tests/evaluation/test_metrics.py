import math

import numpy as np
import pytest

from evclip_ray.evaluation.metrics import ClassificationState, wilson_interval


def scores(num_videos, num_classes, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_videos, num_classes)).astype(np.float32), rng.integers(
        num_classes, size=num_videos
    )


def test_the_numbers_of_a_known_case():
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
    assert state.log_loss_sum == pytest.approx(expected)


@pytest.mark.parametrize("workers", range(1, 8))
def test_states_of_uneven_workers_add_up_to_the_single_worker_numbers(workers):
    logits, labels = scores(23, 9)
    whole = ClassificationState.of(logits, labels)
    parts = [ClassificationState.of(logits[r::workers], labels[r::workers]) for r in range(workers)]
    merged = sum(parts, ClassificationState.empty(9))
    assert merged.num_videos == 23
    assert (merged.confusion == whole.confusion).all()
    assert merged.top5_hits == whole.top5_hits
    assert merged.log_loss_sum == pytest.approx(whole.log_loss_sum, rel=1e-12)


def test_a_tie_with_the_true_class_counts_against_us_in_top5():
    state = ClassificationState.of(np.zeros((1, 8), np.float32), np.array([0]))
    assert state.top5_hits == 0


def test_top5_is_certain_with_five_classes_or_fewer():
    logits, labels = scores(20, 5)
    assert ClassificationState.of(logits, labels).top5 == 1.0


def test_wilson_interval_holds_the_proportion_and_narrows_with_videos():
    for hits, total in ((0, 5), (3, 5), (5, 5), (30, 50)):
        low, high = wilson_interval(hits, total)
        assert 0 <= low <= hits / total <= high <= 1
    assert (
        wilson_interval(30, 50)[1] - wilson_interval(30, 50)[0]
        < wilson_interval(3, 5)[1] - wilson_interval(3, 5)[0]
    )
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)
