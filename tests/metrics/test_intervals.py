import numpy as np
import pytest
from scipy.stats import binomtest

from evclip_ray.metrics.intervals import (
    accuracy_interval,
    bootstrap_interval,
    mean_interval,
    mean_over_seeds,
    t_interval,
    wilson_interval,
)

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


def test_bootstrap_interval_covers_true_mean_of_three_seeds():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.normal(0.6, 0.05, size=3), resamples=500) for _ in range(300)]
    assert np.mean([low <= 0.6 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.03)


def test_bootstrap_interval_is_seeded_and_may_be_asymmetric():
    values = [0.61, 0.64, 0.58, 0.86, 0.60]
    low, high = bootstrap_interval(values)
    assert np.mean(values) - low < high - np.mean(values)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, resamples=999, seed=1) != (low, high)


@pytest.mark.parametrize("method", [t_interval, bootstrap_interval])
def test_interval_of_equal_accuracies_has_a_width(method):
    assert method([0.5, 0.5, 0.5]) == (0.5, 0.5)
    assert method([1.0, 1.0, 1.0], videos=12) == pytest.approx((0.896, 1.0), abs=1e-3)
    assert method([0.0, 0.0, 0.0], videos=12) == pytest.approx((0.0, 0.104), abs=1e-3)
    low, high = method([0.5, 0.5, 0.5], videos=12)
    assert low < 0.5 < high


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


def test_accuracy_interval_without_groups_is_wilsons():
    right = np.arange(20) < 15
    assert accuracy_interval(right) == wilson_interval(15, 20)
    assert accuracy_interval(right, np.arange(20)[::-1] * 7) == wilson_interval(15, 20)


def test_accuracy_interval_widens_if_groups_are_alike():
    right = np.repeat(np.arange(12) < 8, 6)
    (low, high), (grouped_low, grouped_high) = (
        accuracy_interval(right),
        accuracy_interval(right, np.repeat(np.arange(12), 6)),
    )
    assert grouped_low < low < high < grouped_high
    # Six equal answers hold no more than one: the interval is about that of 8 of 12.
    assert (grouped_low, grouped_high) == pytest.approx(wilson_interval(8, 12), abs=0.06)
    # Groups that are no more alike than chance leave it almost as it is.
    mixed = accuracy_interval(right, np.tile(np.arange(12), 6))
    assert mixed == pytest.approx((low, high), abs=0.02)


@pytest.mark.parametrize("hits", [0, 12])
def test_accuracy_interval_has_a_width_at_zero_and_one(hits):
    right = np.arange(12) < hits
    assert accuracy_interval(right, np.arange(12) // 3) == wilson_interval(hits / 3, 4)
    assert accuracy_interval(right, np.zeros(12, int)) == wilson_interval(hits / 12, 1)


def test_accuracy_interval_of_one_group_is_that_of_one_video():
    right = np.arange(12) % 2 == 0
    low, high = accuracy_interval(right, np.zeros(12, np.int64))
    assert (low, high) == pytest.approx(wilson_interval(0.5, 1))


def test_accuracy_interval_covers_with_alike_groups():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(24), 5)
    plain, grouped = [], []
    for _ in range(600):
        right = rng.random(len(groups)) < rng.beta(1.4, 0.6, 24)[groups]
        for found, interval in (
            (plain, accuracy_interval(right)),
            (grouped, accuracy_interval(right, groups)),
        ):
            found.append(interval[0] <= 0.7 <= interval[1])
    assert np.mean(plain) < 0.8
    assert np.mean(grouped) == pytest.approx(0.95, abs=0.025)


def test_mean_interval_covers_with_alike_groups():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(24), 5)
    plain, grouped = [], []
    for _ in range(120):
        # Uneven noise within a group that keeps the mean of 0.4.
        of_group = rng.beta(2, 3, 24)[groups]
        values = of_group + rng.uniform(-0.9, 0.9, 120) * np.minimum(of_group, 1 - of_group)
        for found, named in ((plain, None), (grouped, groups)):
            low, high = mean_interval(values, named, resamples=500)
            found.append(low <= 0.4 <= high)
    # The standard error of a coverage of 0.95 is 0.02 here.
    assert np.mean(plain) < 0.8
    assert np.mean(grouped) > 0.88


def test_mean_interval_has_a_width_and_stays_in_range():
    assert mean_interval(np.ones(12)) == wilson_interval(12, 12)
    assert mean_interval(np.full(12, 0.3), np.zeros(12, np.int64)) == accuracy_interval(
        np.full(12, 0.3), np.zeros(12, np.int64)
    )
    low, high = mean_interval(np.array([0.0, 1.0, 0.9]))
    assert 0 <= low < 19 / 30 < high <= 1
    spread = np.linspace(0, 1, 40)
    assert mean_interval(spread) == mean_interval(spread, np.arange(40))
