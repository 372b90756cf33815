import numpy as np
import pytest

from evclip_ray.data.video.sampling import frame_indices, spread_offsets
from evclip_ray.data.video.view import ViewConfig

SIZES = [1, 2, 8, 16]
EVERY_VIEW = [ViewConfig(num_frames=t, sampling=s) for t in SIZES for s in ("segments", "window")]


@pytest.mark.parametrize("view", EVERY_VIEW, ids=lambda view: f"{view.sampling}-{view.num_frames}")
def test_indices_are_ordered_and_inside_for_any_length(view):
    for total in range(1, 201):
        for seed in (None, 0, 1):
            indices = frame_indices(total, view=view, seed=seed)
            assert indices.shape == (view.num_frames,)
            assert indices.dtype == np.int64
            assert indices.min() >= 0
            assert indices.max() < total
            assert (np.diff(indices) >= 0).all()


@pytest.mark.parametrize("num_frames", SIZES)
def test_each_segment_gives_one_of_its_frames(num_frames):
    view = ViewConfig(num_frames=num_frames)
    for total in range(num_frames, 201):
        bounds = np.arange(num_frames + 1) * total // num_frames
        for seed in (None, 3):
            indices = frame_indices(total, view=view, seed=seed)
            assert (indices >= bounds[:-1]).all()
            assert (indices < bounds[1:]).all()


def test_view_of_all_frames_takes_each_once():
    for seed in (None, 5):
        assert frame_indices(8, view=ViewConfig(), seed=seed).tolist() == list(range(8))


def test_every_frame_of_a_segment_can_be_drawn():
    view = ViewConfig(num_frames=2)
    drawn = np.stack([frame_indices(6, view=view, seed=seed) for seed in range(60)])
    assert set(drawn[:, 0]) == {0, 1, 2}
    assert set(drawn[:, 1]) == {3, 4, 5}


def test_window_equals_the_published_code():
    # 100 frames: (100 - 32) // 2 = 34, then every 4th.
    view = ViewConfig(sampling="window")
    assert frame_indices(100, view=view).tolist() == [34, 38, 42, 46, 50, 54, 58, 62]
    # 20 frames: stride 20 // 8 = 2, from 0.
    assert frame_indices(20, view=view).tolist() == [0, 2, 4, 6, 8, 10, 12, 14]


def test_window_of_a_short_video_repeats_its_last_frame():
    assert frame_indices(3, view=ViewConfig(sampling="window")).tolist() == [0, 1, 2, 2, 2, 2, 2, 2]


def test_random_windows_reach_both_ends():
    view = ViewConfig(sampling="window", num_frames=2, window_frames=4)
    starts = {int(frame_indices(7, view=view, seed=seed)[0]) for seed in range(60)}
    assert starts == {0, 1, 2, 3}


def test_seed_determines_the_view():
    view = ViewConfig()
    assert (frame_indices(90, view=view, seed=7) == frame_indices(90, view=view, seed=7)).all()
    assert (frame_indices(90, view=view, seed=7) != frame_indices(90, view=view, seed=8)).any()


def test_video_without_frames_is_an_error():
    with pytest.raises(ValueError, match="at least 1 frame, got 0"):
        frame_indices(0, view=ViewConfig())


def test_single_spread_view_is_the_deterministic_one():
    assert spread_offsets(1) == [0.5]
    for view in EVERY_VIEW:
        for total in range(1, 101):
            middle = frame_indices(total, view=view, offset=0.5)
            assert (middle == frame_indices(total, view=view)).all()


@pytest.mark.parametrize("num_views", [4, 5, 10])
def test_spread_views_are_ordered_inside_and_distinct(num_views):
    for view in EVERY_VIEW:
        for total in range(1, 201):
            views = np.stack([frame_indices(total, view=view, offset=at) for at in spread_offsets(num_views)])
            assert views.min() >= 0
            assert views.max() < total
            assert (np.diff(views, axis=0) >= 0).all()
        assert len({tuple(row) for row in views.tolist()}) == num_views


def test_spread_windows_cover_the_whole_video():
    # 132 frames: a window of 32 starts at 0 to 100, here at 10, 30, 50, 70 and 90.
    view = ViewConfig(sampling="window")
    starts = [int(frame_indices(132, view=view, offset=at)[0]) for at in spread_offsets(5)]
    assert starts == [10, 30, 50, 70, 90]


def test_spread_segments_take_different_frames():
    view = ViewConfig(num_frames=2)
    views = [frame_indices(8, view=view, offset=at).tolist() for at in spread_offsets(4)]
    assert views == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_offset_out_of_range_is_an_error():
    for offset in (-0.1, 1.0):
        with pytest.raises(ValueError, match="less than 1, got"):
            frame_indices(10, view=ViewConfig(), offset=offset)
