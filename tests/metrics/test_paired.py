import numpy as np
import pytest

from evclip_ray.metrics.paired import paired_gain


def gain_of(gained, lost, videos, groups=None):
    numbers = np.arange(videos)
    before = (numbers >= gained) & (numbers < gained + lost)
    return paired_gain(before, numbers < gained, groups)


@pytest.mark.parametrize(
    ("gained", "lost", "videos", "is_beyond"),
    [(4, 0, 25, False), (5, 0, 25, True), (3, 0, 4, False), (0, 6, 25, True), (0, 0, 12, False)],
)
def test_gain_is_judged_as_by_a_mid_p_test(gained, lost, videos, is_beyond):
    gain = gain_of(gained, lost, videos)
    assert gain.value == pytest.approx((gained - lost) / videos)
    assert gain.is_beyond_chance == is_beyond
    assert -1 <= gain.low <= gain.high <= 1


def test_gain_without_a_difference_has_a_wide_interval():
    gain = gain_of(0, 0, 12)
    assert -0.3 < gain.low < -0.1
    assert gain.high == -gain.low


def test_gain_over_groups_counts_groups():
    # All gains are in one of six groups.
    groups = np.arange(24) // 4
    assert gain_of(4, 0, 24, groups).low < gain_of(4, 0, 24).low
    assert (gain_of(4, 0, 24, groups).groups, gain_of(4, 0, 24).groups) == (6, None)
    single = gain_of(24, 0, 24, np.zeros(24, int))
    assert not single.is_beyond_chance


def test_interval_covers_the_true_gain_of_few_videos():
    draw = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        luck, noise = draw.normal(size=25), draw.normal(size=(2, 25))
        before, after = luck + noise < np.array([[-0.5], [0.3]])
        gain = paired_gain(before, after)
        # P(N(0, 2) < 0.3) - P(N(0, 2) < -0.5)
        covered.append(gain.low <= 0.58401 - 0.36184 <= gain.high)
    assert np.mean(covered) > 0.93


def test_gain_needs_a_video():
    with pytest.raises(ValueError, match="at least one video"):
        paired_gain(np.zeros(0, bool), np.zeros(0, bool))
