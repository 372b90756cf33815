"""Views of videos in order of time, decoded ahead by threads.

A video is decoded once from front to back, also where its windows overlap. Only the frames that a later view
still needs are in memory. Threads decode the next views while the caller computes; a full queue makes them
wait.
"""

import contextlib
import dataclasses
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from evclip_ray.config import ConfigError
from evclip_ray.data.storage import Place
from evclip_ray.data.video.decode import Fitting, Part, VideoError, open_video, part_of, read_frames
from evclip_ray.data.video.reader import WrongIndexError
from evclip_ray.data.video.sampling import frame_indices
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.windows import WindowLength, first_needed, most_held, place_windows, view_indices
from evclip_ray.formatting import binary_size

MAX_HELD_BYTES = 2**30
"""Largest size of the frames of overlapping windows that are in memory at a time."""


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """Decoded view of a window of a video.

    Attributes:
        start_seconds: Start of the window; 0 is the first frame of the video.
        end_seconds: End of the window, exclusive.
        frames: (T, H, W, 3) uint8.
        duration_seconds: End of the last frame of the video or of its part.
        num_frames: Frames of the video or of its part.
    """

    start_seconds: float
    end_seconds: float
    frames: NDArray[np.uint8]
    duration_seconds: float
    num_frames: int


def read_views(
    path: Place, view: ViewConfig, *, part: Part | None = None, windows: WindowLength | None = None
) -> Generator[View, None, None]:
    """Yield the view of each window of a video; by default one view of the whole video, as in evaluation.

    Views of windows are decoded by PyAV with either decoder: torchcodec cannot decode from front to back in
    constant memory.

    Args:
        path: Path or URI.
        view: Sampling and size.
        part: Part of the video in seconds; the whole video by default.
        windows: Windows over the video or its part; None for one view.

    Raises:
        VideoError: The video does not decode, the part contains no frame, a folder of frames has no times,
            there are too many windows, or the frames of overlapping ones exceed `MAX_HELD_BYTES`.
    """
    part, done = part or Part(), 0
    has_bounds = part.get("start_seconds") is not None or part.get("end_seconds") is not None
    # As in `decode_views`: only the packets around a part are read, and if the decoder contradicts them, the
    # whole file is indexed. Views that were already yielded are skipped then.
    if has_bounds:
        with contextlib.suppress(WrongIndexError):
            for each in _views(path, view, part, windows, windowed=True):
                yield each
                done += 1
            return
    for number, each in enumerate(_views(path, view, part, windows, windowed=False)):
        if number >= done:
            yield each


def _views(
    path: Place, view: ViewConfig, part: Part, windows: WindowLength | None, *, windowed: bool
) -> Iterator[View]:
    start, end = part.get("start_seconds"), part.get("end_seconds")
    bounds = (start, end) if windowed else (None, None)
    with open_video(path, fps=part.get("fps"), start_seconds=bounds[0], end_seconds=bounds[1]) as video:
        first, last = part_of(video, part)
        seconds = video.index.seconds
        begin = max(start or 0.0, 0.0)
        # A frame is shown until the next one starts.
        finish = float(seconds[last]) if last < len(seconds) else float(seconds[last - 1]) + 1 / video.fps
        finish = finish if end is None else min(finish, end)
        if windows is None:
            indices = first + frame_indices(last - first, view=view)
            yield View(begin, finish, read_frames(video, indices, view), finish, last - first)
            return
        if not video.timed:
            raise VideoError(path, "a folder of frames has no times; give its frames per second (fps)")
        try:
            placed = place_windows(
                seconds[first:last],
                finish,
                length=windows.window_seconds,
                stride=windows.stride_seconds,
                start=begin,
            )
        except ConfigError as error:
            # Other videos may be shorter.
            raise VideoError(path, str(error)) from None
        indices = first + view_indices(placed, view)
        problem = memory_problem(most_held(indices), view, windows)
        if problem is not None:
            raise VideoError(path, problem)
        fitting = Fitting(view, pixel_aspect=video.pixel_aspect)
        views = group_frames(video.stream(indices.ravel().tolist(), fitting), indices)
        for window, frames in zip(placed, views, strict=True):
            yield View(window.start_seconds, window.end_seconds, frames, finish, last - first)


def group_frames(
    frames: Iterator[tuple[int, NDArray[np.uint8]]], indices: NDArray[np.int64]
) -> Iterator[NDArray[np.uint8]]:
    """Yield the views (T, H, W, 3) of windows from their frames. A frame is dropped after its last view.

    Args:
        frames: Index and image of each frame of `indices`, in increasing order.
        indices: (windows, T) frames of each view.
    """
    held: dict[int, NDArray[np.uint8]] = {}
    position = -1
    lowest = first_needed(indices)
    for number, wanted in enumerate(indices):
        while position < wanted.max():
            position, held[position] = next(frames)
        yield np.stack([held[index] for index in wanted.tolist()])
        if number + 1 < len(indices):
            for index in [index for index in held if index < lowest[number + 1]]:
                del held[index]


def memory_problem(num_frames: int, view: ViewConfig, windows: WindowLength) -> str | None:
    """Return why frames of windows do not fit in memory, or None if they do.

    Args:
        num_frames: Largest number of frames that are in memory at a time.
        view: Stored size of a frame.
        windows: Length and stride of the windows.
    """
    num_bytes = num_frames * (view.num_bytes // view.num_frames)
    if num_bytes <= MAX_HELD_BYTES:
        return None
    return (
        f"windows of {windows.window_seconds:g} s every {windows.stride_seconds:g} s keep "
        f"{binary_size(num_bytes)} of frames in memory, more than {binary_size(MAX_HELD_BYTES)}; raise the "
        "stride or shorten the window"
    )


class _Reading:
    """Views of one video, read by a thread and taken by another one.

    Args:
        video: The video.
        depth: Largest number of views that wait to be taken.
    """

    def __init__(self, video: Place, depth: int) -> None:
        self.video = video
        self._slots = threading.Semaphore(depth)
        self._items: queue.SimpleQueue[View | BaseException | None] = queue.SimpleQueue()
        self._is_stopped = threading.Event()

    def fill(self, read: "Reader") -> None:
        """Read the views; wait while the queue is full."""
        if self._is_stopped.is_set():
            return
        try:
            with contextlib.closing(read(self.video)) as views:
                for view in views:
                    self._slots.acquire()
                    if self._is_stopped.is_set():
                        return
                    self._items.put(view)
        # Raised where the views are taken.
        except BaseException as error:
            self._items.put(error)
        else:
            self._items.put(None)

    def stop(self) -> None:
        """End the reading thread, also while it waits for a slot."""
        self._is_stopped.set()
        self._slots.release()

    def __iter__(self) -> Iterator[View]:
        while (item := self._items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            self._slots.release()
            yield item


Reader = Callable[[Place], Generator[View, None, None]]
"""Function that reads the views of a video."""


def read_ahead(
    videos: Iterable[Place], read: Reader, *, workers: int, ahead: int, depth: int
) -> Generator[tuple[Place, Iterator[View]], None, None]:
    """Yield each video and its views, in order, while threads read the next ones.

    The views raise the error that ended their reading. At most `ahead` * `depth` views are in memory.

    Args:
        videos: Paths or URIs. At most `ahead` of them are taken before their turn.
        read: Function that reads the views of a video.
        workers: Number of threads, which read one video each.
        ahead: Largest number of videos whose reading has started and whose turn has not passed.
        depth: Largest number of waiting views of a video.
    """
    started: deque[_Reading] = deque()
    tasks: queue.SimpleQueue[_Reading | None] = queue.SimpleQueue()

    def work() -> None:
        while (reading := tasks.get()) is not None:
            reading.fill(read)

    # Daemons: Python waits for the threads of an executor when it exits, also if this iterator was left open.
    threads = [threading.Thread(target=work, name="evclip-ray-decode", daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for video in videos:
            started.append(_Reading(video, depth))
            tasks.put(started[-1])
            if len(started) == ahead:
                yield started[0].video, iter(started[0])
                started.popleft()
        while started:
            yield started[0].video, iter(started[0])
            started.popleft()
    finally:
        # Also reached by an error or Ctrl-C in the caller: no thread may go on decoding or keep a file open.
        for reading in started:
            reading.stop()
        for _ in threads:
            tasks.put(None)
        for thread in threads:
            thread.join()
