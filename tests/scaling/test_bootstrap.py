import numpy as np
import pytest

from evclip_ray.scaling.bootstrap import (
    Score,
    effective_number,
    how_drawn,
    interval_of_difference,
    middle,
    resampled_top1,
)
from evclip_ray.training.per_video_scores import VideoScores

MANY = 20_000


def scored(right, videos="val", groups=None):
    right = np.asarray(right, bool)
    each = VideoScores(videos, right, np.zeros(len(right), np.float32), groups)
    return Score(right.mean(), len(right), each)


@pytest.mark.parametrize("score", [Score(0.7, 40), scored(np.arange(40) < 28)])
def test_single_trial_resamples_videos_with_replacement(score):
    rng = np.random.default_rng(1)
    direct = (np.arange(40) < 28)[rng.integers(40, size=(MANY, 40))].mean(1)
    drawn = resampled_top1([score], resamples=MANY)[:, 0]
    assert drawn.mean() == pytest.approx(direct.mean(), abs=0.005)
    assert drawn.std() == pytest.approx(direct.std(), rel=0.05)
    assert middle(drawn) == pytest.approx(middle(direct), abs=0.03)


def test_trials_on_the_same_videos_vary_together():
    easy = np.arange(100) < 60
    better = np.arange(100) < 65
    paired = resampled_top1([scored(easy), scored(better)])
    apart = resampled_top1([scored(easy, "some"), scored(better, "others")])
    assert (paired[:, 1] >= paired[:, 0]).all(), "a trial with more right videos is never worse"
    assert np.diff(paired).std() < np.diff(apart).std() / 2
    assert (np.diff(apart) < 0).mean() > 0.1
    same = resampled_top1([scored(easy), scored(easy)])
    assert (same[:, 0] == same[:, 1]).all()


def test_trial_without_per_video_scores_is_independent():
    scores = [scored(np.arange(50) < 20), Score(0.4, 50), scored(np.arange(50) < 20)]
    drawn = resampled_top1(scores)
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.15


def test_paired_trials_are_reported():
    one, other = scored([True, False]), scored([True, False, True], "others")
    assert how_drawn([one, one]) == "paired over the same videos"
    assert how_drawn([one, other]) == "paired within 2 different sets of videos"
    assert how_drawn([one, Score(0.5, 2)]) == "paired over the same videos; 1 of 2 trials by themselves"
    assert "was not kept" in how_drawn([Score(0.5, 2)])


def test_groups_are_drawn_whole():
    right, groups = np.repeat([True, False, True, False, True], 8), np.repeat(np.arange(5), 8)
    together, apart = resampled_top1([scored(right, groups=groups)]), resampled_top1([scored(right)])
    assert len(np.unique(together.round(6))) == 6, "0 to 5 right groups"
    assert together.mean() == pytest.approx(0.6, abs=0.05)
    assert together.std() > 2 * apart.std()
    # Student's quantile with 4 degrees of freedom is 2.776.
    assert together.std() == pytest.approx((0.6 * 0.4 / 4) ** 0.5 * 2.776 / 1.96, rel=0.1)
    assert effective_number(scored(right, groups=groups)) == pytest.approx(5, abs=1)
    assert effective_number(scored(right)) == 40
    assert how_drawn([scored(right, groups=groups)]) == "paired over the same groups of videos"


def test_groups_of_one_trial_hold_for_trials_of_older_versions():
    right, groups = np.repeat([True, False], 6), np.repeat(np.arange(6), 2)
    drawn = resampled_top1([scored(right), scored(right, groups=groups)])
    assert (drawn[:, 0] == drawn[:, 1]).all()


def test_gain_of_equal_scores_has_a_width():
    perfect = scored([True] * 12)
    low, high = interval_of_difference(perfect, perfect)
    assert (low, high) == pytest.approx((-0.242, 0.242), abs=0.001)
    groups = scored([True] * 12, groups=np.repeat(np.arange(3), 4))
    assert interval_of_difference(groups, groups)[1] > 0.5, "3 groups show less than 12 videos"
    better, worse = scored(np.arange(40) < 30), scored(np.arange(40) < 20)
    low, high = interval_of_difference(worse, better)
    assert 0 < low < 0.25 < high < 0.5
