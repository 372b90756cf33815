"""Views of the windows of a live source, whose frames arrive one by one."""

import collections
import math
from collections.abc import Iterable, Iterator

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from evclip_ray.config import ConfigError
from evclip_ray.data.video.decode import Fitting
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.reading import View, memory_problem
from evclip_ray.deploy.windows import WindowLength, full_windows, rest_window, view_indices, windows_at


def live_views(
    frames: Iterable[NDArray[np.uint8]], view: ViewConfig, *, fps: float, windows: WindowLength
) -> Iterator[View]:
    """Yield the view of each window as soon as its last frame has arrived.

    Frame i is at i / fps. The windows are those of `place_windows` over a video of these frames: the rest at
    the end gets a window of full length, and a source that ends early gets a shorter one.

    Args:
        frames: Frames (H, W, 3) uint8 RGB.
        view: Sampling and size.
        fps: Frames per second.
        windows: Length and stride of the windows.

    Raises:
        ConfigError: `fps` is not a positive number, or the frames of a window do not fit in memory.
        ValueError: A frame has another shape or type.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ConfigError(f"fps must be a positive number of frames per second, got {fps}")
    length, stride = windows
    # The frame that is shown at the start of a window started before it, and the newest one may be a frame
    # early.
    most = math.ceil(length * fps) + 2
    problem = memory_problem(most, view, windows)
    if problem is not None:
        raise ConfigError(problem)
    fitting = Fitting(view)
    held: collections.deque[NDArray[np.uint8]] = collections.deque(maxlen=most)
    count, done = 0, 0

    def view_of(start: float, end: float) -> View:
        first = count - len(held)
        placed = windows_at(np.arange(first, count) / fps, [(start, end)])
        (indices,) = view_indices(placed, view)
        return View(start, end, np.stack([held[index] for index in indices.tolist()]), count / fps, count)

    for frame in frames:
        held.append(fitting(_video_frame(frame)))
        count += 1
        while done < full_windows(count / fps, length=length, stride=stride):
            yield view_of(done * stride, done * stride + length)
            done += 1
    if count:
        seconds = np.arange(count - len(held), count) / fps
        for start, end in rest_window(seconds, count / fps, count=done, length=length, stride=stride):
            yield view_of(start, end)


def _video_frame(frame: NDArray[np.uint8]) -> VideoFrame:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"a frame must be (H, W, 3) uint8 RGB, got {frame.shape} {frame.dtype}")
    return VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
