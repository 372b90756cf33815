import numpy as np
import pytest

from evclip_ray.metrics.intervals import bootstrap_interval, over_seeds, t_interval, wilson_interval

# Two-sided 95 % points of Student's t, from published tables.
T_TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 10: 2.228, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize(("degrees", "expected"), T_TABLE.items())
def test_the_t_interval_agrees_with_published_tables(degrees, expected):
    values = np.random.default_rng(degrees).normal(size=degrees + 1)
    low, high = t_interval(values)
    spread = values.std(ddof=1) / np.sqrt(len(values))
    assert (high - low) / 2 / spread == pytest.approx(expected, abs=6e-4)
    assert (high + low) / 2 == pytest.approx(values.mean())


def test_the_t_interval_holds_the_true_mean_95_times_in_100():
    rng = np.random.default_rng(0)
    intervals = [t_interval(rng.normal(0.6, 0.05, size=3)) for _ in range(2000)]
    assert np.mean([low <= 0.6 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.015)


def test_the_bootstrap_interval_is_seeded_and_lies_inside_the_values():
    values = [0.61, 0.64, 0.58, 0.66, 0.60]
    low, high = bootstrap_interval(values)
    assert min(values) <= low < np.mean(values) < high <= max(values)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, seed=1) != (low, high)


def test_equal_seeds_have_an_interval_of_no_width():
    assert t_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
def test_a_mean_over_seeds_says_how_many_there_were(interval):
    found = over_seeds([0.5, 0.7, 0.6], interval=interval)
    assert found.mean == pytest.approx(0.6)
    assert found.num_seeds == 3
    low, high = found.interval
    assert low < 0.6 < high
    assert found.record() == {"mean": found.mean, "interval": [low, high], "seeds": 3}


def test_one_seed_has_a_mean_and_no_interval():
    assert over_seeds([0.4]).record() == {"mean": 0.4, "interval": None, "seeds": 1}
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        t_interval([0.4])
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        bootstrap_interval([0.4])


def test_no_seed_and_a_seed_that_failed_are_refused():
    with pytest.raises(ValueError, match="got none"):
        over_seeds([])
    with pytest.raises(ValueError, match="finite"):
        over_seeds([0.4, float("nan")])


def test_wilson_interval_holds_the_proportion_and_narrows_with_videos():
    for hits, total in ((0, 5), (3, 5), (5, 5), (30, 50)):
        low, high = wilson_interval(hits, total)
        assert 0 <= low <= hits / total <= high <= 1
    few, many = wilson_interval(3, 5), wilson_interval(30, 50)
    assert many[1] - many[0] < few[1] - few[0]
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)
