"""Placement of windows over frame times, and the frames that their views take."""

import numpy as np
import pytest

from evclip_ray.config import ConfigError
from evclip_ray.data.video.sampling import frame_indices
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.windows import (
    MAX_WINDOWS,
    WindowLength,
    full_windows,
    most_held,
    place_windows,
    view_indices,
    windows_at,
)


def bounds(seconds, end, **lengths):
    return [
        (round(w.start_seconds, 6), round(w.end_seconds, 6)) for w in place_windows(seconds, end, **lengths)
    ]


def frames(seconds, end, **lengths):
    return [(w.first, w.last) for w in place_windows(seconds, end, **lengths)]


EVEN = np.arange(100) / 10  # 10 frames per second, 10 seconds


def test_windows_follow_each_other_without_gap():
    assert bounds(EVEN, 10.0, length=2.5, stride=2.5) == [(0, 2.5), (2.5, 5), (5, 7.5), (7.5, 10)]
    assert frames(EVEN, 10.0, length=2.5, stride=2.5) == [(0, 25), (25, 50), (50, 75), (75, 100)]


def test_rest_gets_a_window_of_full_length():
    assert bounds(EVEN, 10.0, length=4, stride=4) == [(0, 4), (4, 8), (6, 10)]
    assert frames(EVEN, 10.0, length=4, stride=4)[-1] == (60, 100)


def test_rest_without_a_frame_gets_no_window():
    # The last frame starts at 9.9 s and a window ends there: 0.05 s remain.
    assert bounds(EVEN, 10.0, length=4.975, stride=4.975) == [(0, 4.975), (4.975, 9.95)]


def test_windows_overlap_with_a_shorter_stride():
    assert bounds(EVEN, 10.0, length=4, stride=2) == [(0, 4), (2, 6), (4, 8), (6, 10)]


def test_end_in_a_gap_of_a_long_stride_is_left_out():
    assert bounds(EVEN, 10.0, length=1, stride=4.2) == [(0, 1), (4.2, 5.2), (8.4, 9.4)]
    # The next window would start at 9 and have frames.
    assert bounds(EVEN, 10.0, length=2, stride=4.5) == [(0, 2), (4.5, 6.5), (8, 10)]


def test_short_video_gets_one_window_of_its_length():
    assert bounds(EVEN, 10.0, length=60, stride=1) == [(0, 10)]
    assert frames(EVEN, 10.0, length=60, stride=1) == [(0, 100)]


def test_windows_of_a_part_start_with_it():
    assert bounds(EVEN[30:60], 6.0, start=3.0, length=2, stride=2) == [(3, 5), (4, 6)]


def test_windows_between_two_frames_take_the_shown_one():
    # One frame per second and windows of 0.4 s: frame 0 is shown until 1 s.
    assert frames(np.arange(3.0), 3.0, length=0.4, stride=0.4)[:4] == [(0, 1), (0, 1), (1, 2), (1, 2)]


def test_gap_of_a_variable_rate_takes_the_shown_frame():
    seconds = np.array([0, 0.1, 0.2, 5.0, 5.1])
    assert frames(seconds, 5.2, length=1, stride=1) == [(0, 3), (2, 3), (2, 3), (2, 3), (2, 3), (3, 5)]


def test_many_strides_add_no_rounding_error():
    seconds = np.arange(9_000) / 10
    placed = place_windows(seconds, 900.0, length=0.1, stride=0.1)
    assert len(placed) == 9_000
    assert all(window.last - window.first == 1 for window in placed)
    assert placed[-1].first == 8_999


def test_first_frames_of_a_window_are_those_of_its_start():
    assert windows_at(EVEN, [(0.30001, 0.5)]) == [(0.30001, 0.5, 3, 5)]


def test_views_sample_windows_as_training_samples_videos():
    view = ViewConfig(num_frames=4)
    indices = view_indices(place_windows(EVEN, 10.0, length=4, stride=4), view)
    assert indices.tolist() == [[5, 15, 25, 35], [45, 55, 65, 75], [65, 75, 85, 95]]
    assert (indices[1] - 40).tolist() == frame_indices(40, view=view).tolist()


def test_views_with_window_sampling_take_the_centre():
    view = ViewConfig(num_frames=4, sampling="window", window_frames=8)
    (indices,) = view_indices(place_windows(EVEN, 10.0, length=60, stride=60), view)
    assert indices.tolist() == [46, 48, 50, 52]


def test_window_with_few_frames_repeats_them():
    view = ViewConfig(num_frames=4)
    (indices,) = view_indices(windows_at(np.arange(2.0), [(0, 2)]), view)
    assert indices.tolist() == [0, 0, 1, 1]


def test_held_frames_do_not_grow_with_the_video():
    view = ViewConfig(num_frames=8)
    counts = []
    for seconds in (60, 600):
        times = np.arange(seconds * 25) / 25
        counts.append(most_held(view_indices(place_windows(times, seconds, length=4, stride=1), view)))
    assert counts[0] == counts[1] <= 32


def test_full_windows_fit_in_the_duration():
    assert [full_windows(t, length=2, stride=1) for t in (0, 1.9, 2, 2.9, 3)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("window", "stride", "message"),
    [
        (None, 1.0, "needs the length of a window"),
        (0.0, None, "window_seconds must be a positive number of seconds, got 0.0"),
        (-1.0, None, "window_seconds must be"),
        (float("nan"), None, "window_seconds must be"),
        (1.0, float("inf"), "stride_seconds must be"),
    ],
)
def test_lengths_out_of_range_are_refused(window, stride, message):
    with pytest.raises(ConfigError, match=message):
        WindowLength.of(window, stride)


def test_stride_is_a_window_by_default():
    assert WindowLength.of(2, None) == (2.0, 2.0)
    assert WindowLength.of(None, None) is None


def test_too_many_windows_are_refused():
    with pytest.raises(
        ConfigError, match=r"a stride of 1e-06 s gives .* more than 1,000,000; raise the stride"
    ):
        place_windows(EVEN, 10.0, length=1, stride=1e-6)
    assert MAX_WINDOWS == 1_000_000
