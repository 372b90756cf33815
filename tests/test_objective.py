"""Objective of a trial: values by epoch, and the weights of the epochs."""

import numpy as np
import pytest

from evclip_ray.objective import check_objective, objective_values, objective_weights

CURVE = np.array([0.2, 0.6, 0.4, 0.5])


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("best", [0.2, 0.6, 0.6, 0.6]),
        ("last", [0.2, 0.6, 0.4, 0.5]),
        ("mean_of_last_2", [0.2, 0.4, 0.5, 0.45]),
        ("mean_of_last_3", [0.2, 0.4, 0.4, 0.5]),
    ],
)
def test_value_after_each_epoch(objective, expected):
    assert objective_values(CURVE, objective) == pytest.approx(np.array(expected))
    # The same for each column of an array over resamples.
    columns = objective_values(np.stack([CURVE, CURVE / 2], axis=1), objective)
    assert columns == pytest.approx(np.stack([expected, np.array(expected) / 2], axis=1))


@pytest.mark.parametrize("objective", ["best", "last", "mean_of_last_3", "mean_of_last_9"])
def test_weights_reproduce_the_last_value(objective):
    top1 = np.random.default_rng(0).integers(0, 12, (20, 50)) / 12
    weights = objective_weights(top1, objective)
    assert weights.sum(0) == pytest.approx(np.ones(50))
    assert (weights * top1).sum(0) == pytest.approx(objective_values(top1, objective)[-1])


def test_best_skips_an_epoch_without_a_score():
    values = objective_values(np.array([0.2, np.nan]), "best")
    assert values.tolist() == [0.2, 0.2]
    assert np.isnan(objective_values(np.array([0.2, np.nan]), "last")[1])


@pytest.mark.parametrize("objective", ["", "mean", "mean_of_last_0", "mean_of_last_k"])
def test_unknown_objective_is_refused(objective):
    with pytest.raises(ValueError, match="mean_of_last_3"):
        check_objective(objective)
