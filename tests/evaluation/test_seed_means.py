"""Means over checkpoints that differ in their seed."""

import dataclasses

import pytest

from evclip_ray.evaluation.evaluate import EvaluationResult
from evclip_ray.evaluation.seed_means import HARMONIC, means_over_checkpoints
from evclip_ray.metrics.multi_view import Coverage


def result(top1, videos=12):
    numbers = {"videos": videos, "top1": top1, "top5": 1.0, "mean_class_accuracy": top1}
    return EvaluationResult(("a", "b"), {"adapted": numbers}, [], {}, 0, 0, Coverage(1.0, 1.0), "")


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
@pytest.mark.parametrize(("top1", "inside"), [(0.0, 0.05), (1.0, 0.95)])
def test_equal_seeds_have_an_interval_with_a_width(interval, top1, inside):
    (row, *_) = means_over_checkpoints([{"test": result(top1)}] * 3, interval=interval)
    assert row.mean.interval is not None
    low, high = row.mean.interval
    assert low <= inside <= high
    assert 0 <= low < high <= 1


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
def test_interval_contains_the_mean_of_different_seeds(interval):
    means = means_over_checkpoints([{"test": result(v)} for v in (0.5, 0.75, 0.25)], interval=interval)
    by_metric = {row.metric: row.mean for row in means}
    assert by_metric["top1"].mean == 0.5
    low, high = by_metric["top1"].interval
    assert 0 <= low < 0.25
    assert 0.75 < high <= 1


def test_harmonic_mean_of_equal_seeds_has_a_width():
    sides = {"base": result(1.0), "novel": result(1.0)}
    row = next(row for row in means_over_checkpoints([sides] * 2) if row.side == HARMONIC)
    assert row.mean.interval[0] < 1


def test_mask_quality_is_averaged_where_every_checkpoint_has_it():
    record = {"average_precision": 0.4, "pointing_game": 0.5, "scored": 10}
    scored = [
        dataclasses.replace(result(0.5), mask_quality=record | {"average_precision": value})
        for value in (0.4, 0.6)
    ]
    means = {row.metric: row.mean.mean for row in means_over_checkpoints([{"test": one} for one in scored])}
    assert means["mask_average_precision"] == pytest.approx(0.5)
    assert means["mask_pointing_game"] == 0.5
    without = means_over_checkpoints([{"test": scored[0]}, {"test": result(0.5)}])
    assert {row.metric for row in without} == {"top1", "top5", "mean_class_accuracy"}
