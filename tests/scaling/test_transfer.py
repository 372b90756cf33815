import math

import numpy as np
import pytest

from evclip_ray.records import LeaderboardRow
from evclip_ray.scaling.bootstrap import Score
from evclip_ray.scaling.transfer import ScoredTrial, best_values, slope
from evclip_ray.training.per_video_scores import VideoScores
from evclip_ray.tuning.distributions import Distribution

LR = Distribution.parse("optim.lr", {"loguniform": [1e-5, 1.0]})
DEPTH = Distribution.parse("method.mask.depth", {"int": [1, 4]})
PROMPTS = Distribution.parse("method.prompts", {"choice": ["both", "mask"]})


def trials(pairs, path="optim.lr", videos=10_000):
    return [ScoredTrial(LeaderboardRow("t", {path: value}), Score(top1, videos)) for value, top1 in pairs]


def peaked(best, videos=10_000, count=6):
    """Return trials whose top-1 falls by 0.2 per decade from the learning rate `best`."""
    rates = 10.0 ** np.linspace(-4, -1.5, count)
    return trials([(r, 0.8 - 0.2 * abs(math.log10(r / best))) for r in rates], videos=videos)


def test_best_value_has_range_within_one_standard_error():
    row = best_values(
        "ViT-B-16", trials([(0.1, 0.5), (0.01, 0.7), (0.001, 0.68), (0.0001, 0.2)], videos=100), LR
    )
    assert (row["best"], row["low"], row["high"]) == (0.01, 0.001, 0.01)
    assert row["within_noise"] == "0.001 0.01"
    assert row["status"] == "ok"


def test_choices_have_a_best_value_without_bounds():
    row = best_values("r", trials([("both", 0.9), ("mask", 0.1), ("both", 0.2)], "method.prompts"), PROMPTS)
    assert (row["best"], row["low"], row["within_noise"]) == ("both", None, "both")
    assert slope([(1.0, []), (2.0, []), (3.0, [])], PROMPTS)["status"].startswith("not a number")


def test_trials_without_setting_or_score_do_not_count():
    some = [
        *trials([(1, 0.5), (2, 0.6)], "method.mask.depth"),
        ScoredTrial(LeaderboardRow("t"), Score(0.9, 10)),
        ScoredTrial(LeaderboardRow("t", {"method.mask.depth": 3}), None),
    ]
    row = best_values("r", some, DEPTH)
    assert row["best"] is None
    assert row["status"] == "too few trials: 2, 3 are needed"


def test_optimum_moving_with_root_of_cost_is_detected():
    result = slope([(10.0**k, peaked(10 ** (-4 + k / 2))) for k in range(5)], LR)
    assert result["slope"] == pytest.approx(0.5)
    assert result["status"] == "moves"
    low, high = result["interval"]
    assert low <= 0.5 <= high


def test_constant_optimum_stays_and_few_videos_are_undecided():
    still = slope([(10.0**k, peaked(1e-3)) for k in range(4)], LR)
    assert (still["slope"], still["status"]) == (0.0, "stays within noise")
    depths = trials([(2, 0.5), (2, 0.6), (2, 0.7), (2, 0.6)], "method.mask.depth")
    fixed = slope([(cost, depths) for cost in (0.0508477, 0.0661519, 0.167837)], DEPTH)
    assert (fixed["slope"], fixed["interval"], fixed["status"]) == (0.0, [0.0, 0.0], "stays within noise")
    unsure = slope([(10.0**k, peaked(10 ** (-3.5 + k / 2), videos=5)) for k in range(3)], LR)
    assert unsure["status"] == "stays within noise"
    assert unsure["interval"][0] < 0 < unsure["interval"][1]


def test_interval_contains_the_uncertainty_of_the_points():
    # The best of few points lies at 1e-3.9, 1e-3.4, 1e-2.9 by the draw of the points alone.
    drawn = [
        trials([(10.0**e, 0.8 - 0.2 * abs(e + 3.4)) for e in exponents])
        for exponents in ((-3.9, -1, -5, -0.5), (-3.4, -1, -5, -0.5), (-2.9, -1, -5, -0.5))
    ]
    result = slope([(10.0**k, step) for k, step in enumerate(drawn)], LR)
    assert result["slope"] == pytest.approx(0.5)
    assert result["status"] == "stays within noise"


def test_two_steps_are_too_few_for_a_slope():
    result = slope([(1.0, peaked(1e-3)), (10.0, peaked(1e-2)), (100.0, [])], LR)
    assert result["slope"] is None
    assert result["status"] == "not enough steps: 2 with at least 4 trials, 3 are needed"
    assert slope([(1.0, peaked(1e-3))] * 3, LR)["slope"] is None, "three steps of equal cost"


def test_step_of_unknown_cost_is_skipped():
    steps = [(None, peaked(1e-3)), (1.0, peaked(1e-3)), (2.0, peaked(1e-3)), (4.0, peaked(1e-3))]
    assert slope(steps, LR)["rungs"] == 3


def test_paired_trials_detect_a_move_with_few_videos():
    def with_videos(best):
        # A trial has the first `hits` of 12 videos right, so a better trial includes those of a worse one.
        rows = []
        for trial in peaked(best, videos=12, count=11):
            hits = round(trial.score.top1 * 12)
            each = VideoScores("same", np.arange(12) < hits, np.zeros(12, np.float32))
            rows.append(ScoredTrial(trial.row, Score(hits / 12, 12, each)))
        return rows

    paired = slope([(10.0**k, with_videos(10 ** (-3.5 + k / 2))) for k in range(4)], LR)
    apart = slope([(10.0**k, peaked(10 ** (-3.5 + k / 2), 12, 11)) for k in range(4)], LR)
    assert (paired["status"], apart["status"]) == ("moves", "stays within noise")
    assert paired["intervals"] == "paired over the same videos"
    assert apart["intervals"].startswith("each trial by itself")
