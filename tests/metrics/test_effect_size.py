import math

import numpy as np
import pytest

from evclip_ray.metrics.effect_size import area_under_curve, cliffs_delta


def names(count, prefix="v"):
    return [f"{prefix}{number}" for number in range(count)]


def delta(a, b):
    a, b = np.asarray(a, float), np.asarray(b, float)
    return cliffs_delta(a, b, units_a=names(len(a)), units_b=names(len(b)), seed=0)


def test_delta_is_share_of_pairs_above_minus_below():
    assert delta([1, 2, 3], [4, 5]).value == 1
    assert delta([4, 5], [1, 2, 3]).value == -1
    random = np.random.default_rng(0)
    a, b = random.integers(0, 6, 30), random.integers(2, 8, 20)
    assert delta(a, b).value == pytest.approx(np.sign(b[None] - a[:, None]).mean())


def test_delta_of_a_group_with_itself_is_zero():
    values = np.random.default_rng(0).normal(size=40)
    estimate = delta(values, values)
    assert estimate.value == 0
    assert estimate.low < 0 < estimate.high


def test_interval_narrows_with_more_videos():
    random = np.random.default_rng(0)
    few, many = (delta(random.normal(size=n), random.normal(1, size=n)) for n in (20, 200))
    assert 0 < few.low < few.value < few.high
    assert many.high - many.low < 0.6 * (few.high - few.low)
    # The delta of two unit normals whose means differ by 1 is 2 Phi(1 / sqrt 2) - 1.
    assert many.low < 0.5205 < many.high


def test_interval_covers_true_value_at_nominal_rate():
    random = np.random.default_rng(0)
    num_covering = 0
    for _ in range(60):
        estimate = delta(random.normal(size=30), random.normal(size=30))
        num_covering += estimate.low <= 0 <= estimate.high
    assert num_covering >= 52


def test_interval_widens_if_videos_share_units():
    random = np.random.default_rng(0)
    source = np.repeat(random.normal(size=(2, 6)), 10, axis=1)
    values = source + random.normal(0, 0.01, source.shape)
    units = [f"g{number // 10}" for number in range(60)]
    alone = cliffs_delta(values[0], values[1], units_a=names(60), units_b=names(60), seed=0)
    grouped = cliffs_delta(values[0], values[1], units_a=units, units_b=units, seed=0)
    assert grouped.value == alone.value
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_delta_ignores_order_of_videos():
    random = np.random.default_rng(0)
    a, b, order = random.normal(size=25), random.normal(size=25), random.permutation(25)
    units = np.array(names(25))
    straight = cliffs_delta(a, b, units_a=units, units_b=units, seed=0)
    shuffled = cliffs_delta(a[order], b[order], units_a=units[order], units_b=units[order], seed=0)
    for name in ("value", "low", "high"):
        assert getattr(straight, name) == pytest.approx(getattr(shuffled, name), abs=1e-12)


def test_area_is_half_for_an_unrelated_factor():
    values, right = np.arange(80.0), np.arange(80) % 2 == 0
    unrelated = area_under_curve(values, right, units=names(80), seed=0)
    assert unrelated.low < 0.5 < unrelated.high
    related = area_under_curve(values + 40 * right, right, units=names(80), seed=0)
    assert 0.5 < related.low < related.value < related.high <= 1


@pytest.mark.parametrize("right", [True, False])
def test_area_is_nan_without_positives_or_negatives(right):
    estimate = area_under_curve(np.arange(5.0), np.full(5, right), units=names(5), seed=0)
    assert math.isnan(estimate.value)
    assert math.isnan(estimate.low)


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_groups_that_do_not_overlap_have_an_interval(shift):
    a, units = np.zeros(12), [f"video {number}" for number in range(12)]
    delta = cliffs_delta(a, a + shift, units_a=units, units_b=units, seed=0)
    assert delta.value == shift
    assert sorted([abs(delta.low), abs(delta.high)]) == pytest.approx([0.515, 1.0], abs=1e-3)
    same = cliffs_delta(a, a, units_a=units, units_b=units, seed=0)
    assert same.low < same.value == 0 < same.high
