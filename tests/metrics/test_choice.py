"""Correction of the best accuracy for the choice."""

import functools

import numpy as np
import pytest

from evclip_ray.metrics.choice import Candidate, corrected_for_choice, objective_in_bag, resampling
from evclip_ray.metrics.intervals import wilson_interval
from evclip_ray.objective import objective_weights

best_epoch = functools.partial(objective_weights, objective="best")


def corrected(right, *, rule=best_epoch, points=None, counts=None, groups=None, best=None, classes=None):
    """Correct the best of trials whose answers are (T, E, V)."""
    samples = resampling(right.shape[2], groups, classes)
    candidates = [
        Candidate(
            number if points is None else points[number],
            functools.partial(np.asarray, answers),
            objective_in_bag(answers, rule, samples),
            counts is None or counts[number],
        )
        for number, answers in enumerate(right)
    ]
    if best is None:
        best = int(right.mean(2).max(1).argmax())
    return corrected_for_choice(candidates, rule=rule, best=best, groups=groups, classes=classes)


def test_single_candidate_keeps_its_accuracy_and_interval():
    right = (np.arange(40) < 30)[None, None]
    result = corrected(right)
    assert result.top1 == pytest.approx(0.75)
    # It is Wilson's interval with fewer videos, up to n - 1 in the estimated variance.
    assert result.interval == pytest.approx(wilson_interval(30 / 1.1, 40 / 1.1), abs=0.005)


def test_correction_removes_optimism_of_choice():
    random = np.random.default_rng(0)
    best, after, covered = [], [], []
    for _ in range(60):
        right = random.random((8, 20, 72)) < 0.4
        result = corrected(right)
        best.append(right.mean(2).max())
        after.append(result.top1)
        covered.append(result.interval[0] <= 0.4 <= result.interval[1])
    assert np.mean(best) > 0.53
    assert np.mean(after) == pytest.approx(0.4, abs=0.02)
    assert np.mean(covered) > 0.85


def test_clear_winner_is_not_corrected():
    random = np.random.default_rng(0)
    right = random.random((4, 1, 200)) < np.array([0.9, 0.3, 0.3, 0.3])[:, None, None]
    assert corrected(right).top1 == pytest.approx(right[0].mean(), abs=0.001)


def test_rule_of_last_epoch_ignores_earlier_ones():
    random = np.random.default_rng(0)
    right = random.random((1, 20, 72)) < 0.4
    last = functools.partial(objective_weights, objective="last")
    assert corrected(right, rule=last).top1 == pytest.approx(right[0, -1].mean())
    assert corrected(right).top1 != pytest.approx(right[0].mean(1).max())


def test_points_are_chosen_by_mean_over_seeds():
    # Trial 0 is the best, but its point is not: the other point is right on the second half in both seeds.
    right = np.zeros((4, 1, 100), bool)
    right[0, 0, :70] = True
    right[2:, 0, 40:] = True
    chosen = corrected(right, points=["lucky", "lucky", "good", "good"], best=2)
    assert chosen.top1 == pytest.approx(0.6, abs=0.02)
    alone = corrected(right, points=["lucky", "lucky", "good", "good"], counts=[True, False] * 2, best=0)
    assert alone.top1 > 0.62


def test_groups_are_drawn_as_a_whole_and_widen_the_interval():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(18), 4)
    right = np.repeat(random.random((4, 5, 18)) < 0.5, 4, axis=2)
    samples = resampling(72, groups)
    assert (samples.is_out[:, ::4] == samples.is_out[:, 3::4]).all()
    (low, high), (grouped_low, grouped_high) = (
        corrected(right).interval,
        corrected(right, groups=groups).interval,
    )
    assert grouped_high - grouped_low > 1.3 * (high - low)


@pytest.mark.parametrize(("videos", "parts"), [(2, 2), (3, 3), (4, 4), (30, 4), (50_000, 4)])
def test_each_division_leaves_out_every_video_once(videos, parts):
    is_out = resampling(videos, None).is_out
    assert 196 <= len(is_out) <= 1000
    assert (is_out.reshape(-1, parts, videos).sum(1) == 1).all()
    assert is_out.sum(1).max() - is_out.sum(1).min() <= 1, "parts are equally large"
    assert len(np.unique(is_out[:50], axis=0)) > 1, "divisions differ"


def test_parts_have_equal_shares_of_each_class():
    classes = np.random.default_rng(0).permutation(np.repeat(np.arange(6), 12))
    is_out = resampling(72, None, classes).is_out
    assert all((is_out[:, classes == label].sum(1) == 3).all() for label in range(6))
    # Groups of one class are divided as a whole.
    groups, classes = np.arange(72) // 3, np.arange(72) // 12
    is_out = resampling(72, groups, classes).is_out
    assert (is_out[:, ::3] == is_out[:, 2::3]).all()
    assert all((is_out[:, classes == label].sum(1) == 3).all() for label in range(6))


def test_constant_answers_are_chance_with_classes():
    # Each trial prefers one class and is right on all of its videos: exactly chance on balanced videos.
    classes = np.arange(48) % 6
    right = (classes == np.arange(6)[:, None])[:, None]
    assert corrected(right, classes=classes).top1 == pytest.approx(1 / 6)
    assert corrected(right).top1 < 1 / 6 - 0.03, "without classes, the class that is left out is rare"


def test_videos_of_one_group_have_no_correction():
    right = np.random.default_rng(0).random((2, 3, 12)) < 0.5
    assert corrected(right, groups=np.zeros(12, int)) is None


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_interval_has_a_width_if_all_answers_are_equal(share):
    low, high = corrected(np.full((2, 3, 12), bool(share))).interval
    assert high - low > 0.2
