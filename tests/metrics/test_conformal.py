"""Conformal sets: quantile, sets, and simulated coverage."""

import numpy as np
import pytest

from evclip_ray.metrics.calibration import fit_temperature, softmax
from evclip_ray.metrics.conformal import conformal_quantile, conformal_sets, rank_of


def test_quantile_is_the_ranked_score():
    # Nine videos with scores 0.1 to 0.9; level 0.8 takes number ceil(10 * 0.8) = 8.
    true = 1 - np.arange(1, 10) / 10
    probabilities = np.stack([true, 1 - true], axis=1)
    assert conformal_quantile(probabilities, np.zeros(9, np.int64), 0.8) == pytest.approx(0.8)


@pytest.mark.parametrize(("level", "videos", "rank"), [(0.9, 99, 90), (0.7, 9, 7), (0.95, 19, 19)])
def test_rank_is_exact_where_the_product_is_whole(level, videos, rank):
    assert rank_of(level, videos) == rank


def test_too_few_videos_put_every_class_in_the_set():
    probabilities = np.full((8, 2), 0.5)
    quantile = conformal_quantile(probabilities, np.zeros(8, np.int64), 0.9)
    assert quantile == 1
    assert conformal_sets(np.array([[1.0, 0.0]]), quantile).all()


def test_best_class_is_in_a_set_that_would_be_empty():
    assert conformal_sets(np.array([[0.4, 0.35, 0.25]]), 0.1).tolist() == [[True, False, False]]


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_simulated_coverage_is_at_the_level(level):
    """Overconfident logits of a model with 55 % accuracy, with a temperature from the same videos."""
    rng, covered, n = np.random.default_rng(0), [], 60
    for _ in range(300):
        logits = 1.2 * rng.normal(size=(2 * n, 6))
        labels = (softmax(logits).cumsum(axis=1) < rng.random((2 * n, 1))).sum(axis=1).clip(0, 5)
        temperature = fit_temperature(3 * logits[:n], labels[:n]).temperature
        probabilities = softmax(3 * logits, temperature)
        quantile = conformal_quantile(probabilities[:n], labels[:n], level)
        covered.append(conformal_sets(probabilities[n:], quantile)[np.arange(n), labels[n:]].mean())
    # Theory gives level to level + 1 / (n + 1); the mean of 300 runs has a standard error of 0.004.
    assert level - 0.01 < np.mean(covered) < level + 1 / (n + 1) + 0.01
