import math

import numpy as np
import pytest

from evclip_ray.metrics.effect_size import area_under_curve, shift


def names(count, prefix="v"):
    return [f"{prefix}{number}" for number in range(count)]


def delta(a, b):
    a, b = np.asarray(a, float), np.asarray(b, float)
    return shift(a, b, units_a=names(len(a)), units_b=names(len(b)), seed=0)


def test_delta_is_the_share_of_pairs_above_less_the_share_below():
    assert delta([1, 2, 3], [4, 5]).value == 1
    assert delta([4, 5], [1, 2, 3]).value == -1
    random = np.random.default_rng(0)
    a, b = random.integers(0, 6, 30), random.integers(2, 8, 20)
    assert delta(a, b).value == pytest.approx(np.sign(b[None] - a[:, None]).mean())


def test_a_set_against_itself_has_no_shift_and_its_interval_holds_0():
    values = np.random.default_rng(0).normal(size=40)
    found = delta(values, values)
    assert found.value == 0
    assert found.low < 0 < found.high


def test_the_interval_of_a_clear_shift_leaves_0_out_and_narrows_with_videos():
    random = np.random.default_rng(0)
    few, many = (delta(random.normal(size=n), random.normal(1, size=n)) for n in (20, 200))
    assert 0 < few.low < few.value < few.high
    assert many.high - many.low < 0.6 * (few.high - few.low)
    # Two unit normals one apart: 2 Phi(1 / sqrt 2) - 1.
    assert many.low < 0.5205 < many.high


def test_the_interval_covers_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        found = delta(random.normal(size=30), random.normal(size=30))
        held += found.low <= 0 <= found.high
    assert held >= 52


def test_videos_of_one_source_do_not_count_as_many_sources():
    random = np.random.default_rng(0)
    source = np.repeat(random.normal(size=(2, 6)), 10, axis=1)
    values = source + random.normal(0, 0.01, source.shape)
    units = [f"g{number // 10}" for number in range(60)]
    alone = shift(values[0], values[1], units_a=names(60), units_b=names(60), seed=0)
    grouped = shift(values[0], values[1], units_a=units, units_b=units, seed=0)
    assert grouped.value == alone.value
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_the_order_of_the_videos_changes_nothing():
    random = np.random.default_rng(0)
    a, b, order = random.normal(size=25), random.normal(size=25), random.permutation(25)
    units = np.array(names(25))
    straight = shift(a, b, units_a=units, units_b=units, seed=0)
    shuffled = shift(a[order], b[order], units_a=units[order], units_b=units[order], seed=0)
    for name in ("value", "low", "high"):
        assert getattr(straight, name) == pytest.approx(getattr(shuffled, name), abs=1e-12)


def test_the_area_under_the_curve_is_a_half_for_a_factor_that_says_nothing():
    values, right = np.arange(80.0), np.arange(80) % 2 == 0
    nothing = area_under_curve(values, right, units=names(80), seed=0)
    assert nothing.low < 0.5 < nothing.high
    telling = area_under_curve(values + 40 * right, right, units=names(80), seed=0)
    assert 0.5 < telling.low < telling.value < telling.high <= 1


@pytest.mark.parametrize("right", [True, False])
def test_where_all_are_right_or_none_nothing_can_be_told(right):
    found = area_under_curve(np.arange(5.0), np.full(5, right), units=names(5), seed=0)
    assert math.isnan(found.value)
    assert math.isnan(found.low)
