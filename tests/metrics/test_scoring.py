"""Metrics of a result row, and its interval over groups."""

import numpy as np
import pytest

from evclip_ray.metrics.intervals import accuracy_interval, wilson_interval
from evclip_ray.metrics.scoring import Scores, summary


def scores(right):
    """Return scores of two classes in which the given videos are right."""
    labels = np.arange(len(right)) % 2
    predicted = np.where(right, labels, 1 - labels)
    return Scores(np.eye(2, dtype=np.float32)[predicted], labels)


def test_interval_of_independent_videos_is_wilsons():
    numbers = summary(scores([True, False, True, True]))
    assert numbers["top1_interval"] == list(wilson_interval(3, 4))
    assert (numbers["videos"], numbers["groups"]) == (4, None)


def test_interval_over_groups_is_wider():
    right, groups = np.repeat([True, False, True, True], 6), np.repeat([7, 3, 5, 1], 6)
    numbers = summary(scores(right), groups)
    assert numbers["top1_interval"] == list(accuracy_interval(right, groups))
    low, high = wilson_interval(18, 24)
    assert numbers["top1_interval"][0] < low
    assert numbers["top1_interval"][1] > high
    assert (numbers["videos"], numbers["groups"]) == (24, 4)


@pytest.mark.parametrize("is_right", [True, False])
def test_interval_of_equal_answers_has_a_width(is_right):
    low, high = summary(scores([is_right] * 12), np.repeat(np.arange(4), 3))["top1_interval"]
    assert high - low > 0.2
