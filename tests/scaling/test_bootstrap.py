import numpy as np
import pytest

from evclip_ray.scaling.bootstrap import Score, how_drawn, middle, resampled_top1
from evclip_ray.training.per_video_scores import VideoScores

MANY = 20_000


def scored(right, videos="val"):
    right = np.asarray(right, bool)
    return Score(right.mean(), len(right), VideoScores(videos, right, np.zeros(len(right), np.float32)))


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
