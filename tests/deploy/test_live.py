"""Windows over frames that arrive one by one."""

import weakref

import numpy as np
import pytest

from evclip_ray.config import ConfigError
from evclip_ray.data.video.decode import decode_frames
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.live import live_views
from evclip_ray.deploy.recognizer import Recognizer
from evclip_ray.deploy.windows import WindowLength, place_windows

VIEW = ViewConfig(num_frames=2, height=16, width=16)


def pictures(count):
    for number in range(count):
        yield np.full((16, 16, 3), number, np.uint8)


def views(count, *, fps, window, stride=None):
    return list(live_views(pictures(count), VIEW, fps=fps, windows=WindowLength.checked(window, stride)))


@pytest.mark.parametrize(
    ("count", "fps", "window", "stride"),
    [
        (50, 10, 2, None),
        (53, 10, 2, 1),
        (7, 10, 2, 1),
        (1, 10, 2, 1),
        (40, 10, 1, 3),
        (10, 2, 0.3, 0.2),
        (60, 29.97, 1, 0.4),
    ],
)
def test_stream_has_the_windows_of_a_file(count, fps, window, stride):
    given = views(count, fps=fps, window=window, stride=stride)
    times = np.arange(count) / fps
    placed = place_windows(times, count / fps, length=window, stride=stride or window)
    bounds = [(view.start_seconds, view.end_seconds) for view in given]
    assert np.allclose(bounds, [(each.start_seconds, each.end_seconds) for each in placed])
    shown = [view.frames[:, 0, 0, 0].tolist() for view in given]
    for numbers, each in zip(shown, placed, strict=True):
        assert all(each.first <= number < each.last for number in numbers)


def test_window_is_given_as_soon_as_it_is_full():
    arrived = []

    def source():
        for number, picture in enumerate(pictures(30)):
            arrived.append(number)
            yield picture

    given = live_views(source(), VIEW, fps=10, windows=WindowLength.checked(1, 0.5))
    next(given)
    assert arrived[-1] == 9
    next(given)
    assert arrived[-1] == 14


def test_frames_of_earlier_windows_are_released():
    arrived = []

    def source():
        for picture in pictures(200):
            arrived.append(weakref.ref(picture))
            yield picture
            # The view copies what it needs of a frame; two are in use here and in the loop.
            assert sum(each() is not None for each in arrived) <= 3

    assert len(list(live_views(source(), VIEW, fps=10, windows=WindowLength.checked(1, 1)))) == 20


def test_source_without_frames_gives_no_window():
    assert views(0, fps=10, window=1) == []


def test_stream_predicts_what_a_file_predicts(checkpoint, videos):
    recognizer = Recognizer.load(checkpoint, device="cpu")
    expected = recognizer.predict(videos[2], window_seconds=1, stride_seconds=0.5).windows
    frames = decode_frames(videos[2], range(75), height=48, width=64)
    given = list(recognizer.stream(iter(frames), fps=25, window_seconds=1, stride_seconds=0.5))
    assert [window.best.name for window in given] == [window.best.name for window in expected]
    assert len(given) == 5


@pytest.mark.parametrize("fps", [0, -1, float("nan")])
def test_rate_out_of_range_is_refused(fps):
    with pytest.raises(ConfigError, match="fps must be a positive number"):
        views(1, fps=fps, window=1)


def test_window_that_exceeds_the_memory_is_refused():
    with pytest.raises(ConfigError, match=r"keep .* of frames in memory, more than 1.0 GiB"):
        list(live_views(pictures(1), ViewConfig(), fps=30, windows=WindowLength.checked(3600, None)))


def test_frame_of_another_form_is_refused():
    with pytest.raises(ValueError, match=r"a frame must be \(H, W, 3\) uint8 RGB, got \(4, 4\)"):
        list(live_views([np.zeros((4, 4), np.uint8)], VIEW, fps=1, windows=WindowLength.checked(1, None)))
