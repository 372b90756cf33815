import math

import numpy as np
import pytest

from evclip_ray.domain_shift.semantic_factors import (
    class_similarity,
    granularity,
    nearest_classes,
    over_chance,
)


def at(*degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_finer_classes_have_closer_neighbours():
    coarse, fine = granularity(at(0, 60, 90)), granularity(at(0, 10, 15))
    assert coarse.mean_similarity == pytest.approx((0.5 + math.cos(math.pi / 6)) / 3)
    assert coarse.max_similarity == pytest.approx(math.cos(math.pi / 6))
    assert coarse.mean_nearest == pytest.approx((0.5 + 2 * math.cos(math.pi / 6)) / 3)
    assert fine.mean_similarity > coarse.mean_similarity


def test_crowding_is_similarity_to_the_nearest_class():
    assert class_similarity(at(0, 60, 90)) == pytest.approx([0.5] + [math.cos(math.pi / 6)] * 2)


def test_single_class_has_no_neighbours():
    assert math.isnan(granularity(at(10)).mean_similarity)
    assert np.isnan(class_similarity(at(10))).all()


def test_nearest_class_of_the_other_set_is_returned():
    nearest = nearest_classes(["run", "swim"], at(0, 80), ["walk", "dive", "sit"], at(10, 85, 180))
    assert [(near.name, near.nearest) for near in nearest] == [("run", "walk"), ("swim", "dive")]
    assert nearest[0].similarity == pytest.approx(math.cos(math.radians(10)))
    shared = nearest_classes(["run"], at(0), ["sit", "run"], at(90, 0))
    assert (shared[0].nearest, shared[0].similarity) == ("run", pytest.approx(1))


def test_accuracy_is_compared_with_chance():
    logits = np.eye(4)[[0, 1, 2, 3, 0, 0]]
    accuracy = over_chance(logits, np.array([0, 1, 2, 3, 1, 2]))
    assert accuracy.top1 == pytest.approx(4 / 6)
    assert accuracy.chance == 0.25
    assert accuracy.above_chance == pytest.approx((4 / 6 - 0.25) / 0.75)
    assert accuracy.low < accuracy.top1 < accuracy.high


def test_interval_of_accuracy_takes_units_into_account():
    labels = np.zeros(24, int)
    logits = np.eye(2)[np.repeat([0, 1, 0, 0], 6)]
    units = [f"group {number}" for number in np.repeat(np.arange(4), 6)]
    plain, grouped = over_chance(logits, labels), over_chance(logits, labels, units)
    assert grouped.top1 == plain.top1 == 0.75
    assert grouped.high - grouped.low > plain.high - plain.low + 0.2
