import numpy as np
import pytest
from scipy.stats import binomtest

from evclip_ray.metrics.intervals import bootstrap_interval, mean_over_seeds, t_interval, wilson_interval

# Two-sided 95 % points of Student's t, from published tables.
T_TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 10: 2.228, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize(("degrees", "expected"), T_TABLE.items())
def test_t_interval_agrees_with_published_tables(degrees, expected):
    values = np.random.default_rng(degrees).normal(size=degrees + 1)
    low, high = t_interval(values)
    spread = values.std(ddof=1) / np.sqrt(len(values))
    assert (high - low) / 2 / spread == pytest.approx(expected, abs=6e-4)
    assert (high + low) / 2 == pytest.approx(values.mean())


def test_t_interval_covers_true_mean_at_nominal_rate():
    rng = np.random.default_rng(0)
    intervals = [t_interval(rng.normal(0.6, 0.05, size=3)) for _ in range(2000)]
    assert np.mean([low <= 0.6 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.015)


def test_bootstrap_interval_is_seeded_and_inside_value_range():
    values = [0.61, 0.64, 0.58, 0.66, 0.60]
    low, high = bootstrap_interval(values)
    assert min(values) <= low < np.mean(values) < high <= max(values)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, seed=1) != (low, high)


def test_interval_of_equal_values_has_zero_width():
    assert t_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
def test_mean_over_seeds_records_number_of_seeds(interval):
    result = mean_over_seeds([0.5, 0.7, 0.6], interval=interval)
    assert result.mean == pytest.approx(0.6)
    assert result.num_seeds == 3
    low, high = result.interval
    assert low < 0.6 < high
    assert result.record() == {"mean": result.mean, "interval": [low, high], "seeds": 3}


def test_mean_of_one_seed_has_no_interval():
    assert mean_over_seeds([0.4]).record() == {"mean": 0.4, "interval": None, "seeds": 1}
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        t_interval([0.4])
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        bootstrap_interval([0.4])


def test_mean_over_seeds_refuses_no_values_and_nan():
    with pytest.raises(ValueError, match="got none"):
        mean_over_seeds([])
    with pytest.raises(ValueError, match="finite"):
        mean_over_seeds([0.4, float("nan")])


def test_wilson_interval_contains_proportion_and_narrows():
    for hits, total in ((0, 5), (3, 5), (5, 5), (30, 50)):
        low, high = wilson_interval(hits, total)
        assert 0 <= low <= hits / total <= high <= 1
    few, many = wilson_interval(3, 5), wilson_interval(30, 50)
    assert many[1] - many[0] < few[1] - few[0]
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("hits", "total"), [(0, 7), (3, 7), (7, 7), (499, 1000)])
def test_wilson_interval_agrees_with_scipy(hits, total):
    expected = binomtest(hits, total).proportion_ci(method="wilson")
    assert wilson_interval(hits, total) == pytest.approx((expected.low, expected.high), abs=1e-8)
