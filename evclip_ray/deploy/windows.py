"""Windows over a video: which frames a window shows, and which of them its view takes. Pure arithmetic.

A video is described by the times of its frames, so the rate may vary. Windows of `length` seconds start every
`stride` seconds. The policy for videos that do not fit:

- The rest at the end gets one more window. It ends with the video and overlaps the one before it, so that it
  has the full length too. A rest in which no frame starts gets none.
- A video (or a part of it) that is shorter than a window gets a single window, as long as the video.
- A window in which fewer than T frames start repeats some of them, as training does with short videos.
- A window in which no frame starts, at a low frame rate or in a gap, takes the frame that is shown in it.

>>> seconds = np.arange(10) / 2                     # 2 frames per second, 5 seconds
>>> [(window.start_seconds, window.end_seconds) for window in place_windows(seconds, 5.0, length=2, stride=2)]
[(0.0, 2.0), (2.0, 4.0), (3.0, 5.0)]
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evclip_ray.config import ConfigError
from evclip_ray.data.video.sampling import frame_indices
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.formatting import counted

MAX_WINDOWS = 1_000_000
# As in `part_of`: times are rounded, so a frame this close to a bound counts as shown at it.
_TOLERANCE = 1e-4


class Window(NamedTuple):
    """Window of a video: its bounds in seconds, and its frames [first, last) as indices into the times."""

    start_seconds: float
    end_seconds: float
    first: int
    last: int


class WindowLength(NamedTuple):
    """Length of a window and distance between the starts of two windows, in seconds."""

    window_seconds: float
    stride_seconds: float

    @classmethod
    def of(cls, window_seconds: float | None, stride_seconds: float | None) -> "WindowLength | None":
        """Return the checked lengths; None if neither is given.

        Raises:
            ConfigError: A length is not a positive number, or there is a stride without a window.
        """
        if window_seconds is not None:
            return cls.checked(window_seconds, stride_seconds)
        if stride_seconds is not None:
            raise ConfigError(
                f"stride_seconds={stride_seconds:g} needs the length of a window; give window_seconds too"
            )
        return None

    @classmethod
    def checked(cls, window_seconds: float, stride_seconds: float | None) -> "WindowLength":
        """Return the checked lengths. The stride is a window by default.

        Raises:
            ConfigError: A length is not a positive number.
        """
        stride = window_seconds if stride_seconds is None else stride_seconds
        for name, value in (("window_seconds", window_seconds), ("stride_seconds", stride)):
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a positive number of seconds, got {value}")
        return cls(float(window_seconds), float(stride))


def place_windows(
    seconds: NDArray[np.float64],
    end: float,
    *,
    length: float,
    stride: float,
    start: float = 0.0,
) -> list[Window]:
    """Return the windows over [start, end) in order of time.

    Args:
        seconds: (N,) times of the frames of the video, increasing.
        end: End of the video or of its part, in seconds.
        length: Seconds of a window.
        stride: Seconds between the starts of two windows.
        start: Start of the part, in seconds.

    Raises:
        ConfigError: There would be more than `MAX_WINDOWS`.
    """
    count = full_windows(end - start, length=length, stride=stride)
    if count > MAX_WINDOWS:
        raise ConfigError(
            f"a stride of {stride:g} s gives {counted(count, 'window')} in {end - start:.0f} s, more than "
            f"{MAX_WINDOWS:,}; raise the stride"
        )
    # Multiplied, not added up, so that rounding errors do not grow.
    bounds = [(start + number * stride, start + number * stride + length) for number in range(count)]
    bounds += rest_window(seconds, end, count=count, length=length, stride=stride, start=start)
    return windows_at(seconds, [(first, min(last, end)) for first, last in bounds])


def windows_at(seconds: NDArray[np.float64], bounds: Sequence[tuple[float, float]]) -> list[Window]:
    """Return the windows [start, end) with the frames that start in them, or the one that is shown then.

    Args:
        seconds: (N,) times of the frames, increasing.
        bounds: Start and end of each window in seconds.
    """
    starts, ends = np.array(bounds).T
    first, last = np.searchsorted(seconds, starts - _TOLERANCE), np.searchsorted(seconds, ends - _TOLERANCE)
    # The frame before a window without a start is still shown. Before the first frame, that one is taken.
    first = np.where(first == last, np.maximum(first - 1, 0), first)
    columns = (starts, ends, first, np.maximum(last, first + 1))
    return [Window(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def full_windows(duration: float, *, length: float, stride: float) -> int:
    """Return the number of windows of full length that start every `stride` seconds and fit in `duration`."""
    return max(math.floor((duration - length + _TOLERANCE) / stride) + 1, 0)


def rest_window(
    seconds: NDArray[np.float64],
    end: float,
    *,
    count: int,
    length: float,
    stride: float,
    start: float = 0.0,
) -> list[tuple[float, float]]:
    """Return the bounds of the window after the last full one, or none.

    Args:
        seconds: Times of frames, at least of those after the last full window.
        end: As in `place_windows`.
        count: Number of full windows.
        length: As in `place_windows`.
        stride: As in `place_windows`.
        start: As in `place_windows`.
    """
    if count == 0:
        return [(start, end)]
    covered, following = start + (count - 1) * stride + length, start + count * stride
    # With a stride above the length, the end of a video may lie in a gap between windows.
    if following < end - _TOLERANCE and _has_frame(seconds, covered, end):
        return [(end - length, end)]
    return []


def _has_frame(seconds: NDArray[np.float64], start: float, end: float) -> bool:
    first, last = np.searchsorted(seconds, np.array([start, end]) - _TOLERANCE)
    return bool(first < last)


def view_indices(windows: list[Window], view: ViewConfig) -> NDArray[np.int64]:
    """Return the frames that the view of each window takes, (windows, T), sampled as in the evaluation."""
    return np.stack(
        [window.first + frame_indices(window.last - window.first, view=view) for window in windows]
    )


def first_needed(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each view the lowest frame that it or a later view takes.

    Frames before it can be dropped. The views of windows with variable frame rates do not always start in
    order.

    >>> first_needed(np.array([[0, 9], [5, 6], [4, 8]])).tolist()
    [0, 4, 4]
    """
    lowest: NDArray[np.int64] = np.minimum.accumulate(indices.min(axis=1)[::-1])[::-1]
    return lowest


def most_held(indices: NDArray[np.int64]) -> int:
    """Return the largest number of frames that are in memory at a time while views are read in order.

    >>> most_held(np.array([[0, 4], [2, 6], [4, 8]]))   # after frame 6: 2, 4 and 6
    3

    Args:
        indices: (windows, T) frames of each view.
    """
    taken = np.unique(indices)
    read_to = np.searchsorted(taken, np.maximum.accumulate(indices.max(axis=1)), side="right")
    dropped = np.searchsorted(taken, first_needed(indices))
    return int((read_to - dropped).max())
