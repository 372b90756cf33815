"""Predictions for many videos: batches over videos and windows, in order."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

from evclip_ray.config import ConfigError
from evclip_ray.data.storage import Place
from evclip_ray.data.video.decode import VideoError
from evclip_ray.deploy.predictions import Prediction, WindowPrediction
from evclip_ray.deploy.reading import Reader, View, read_ahead
from evclip_ray.deploy.window_scores import WindowScores

Predict = Callable[[Sequence[View]], Sequence[WindowPrediction]]
"""Function that predicts a batch of views."""

OnWindow = Callable[[WindowPrediction], None]
"""Called with a window as soon as it is computed."""


@dataclasses.dataclass(frozen=True, eq=False)
class Computed:
    """Prediction for a window, with the facts of its video."""

    window: WindowPrediction
    duration_seconds: float
    num_frames: int


@dataclasses.dataclass(frozen=True)
class End:
    """End of a video, or the error that ended it."""

    video: Place
    error: VideoError | None


def predict_batches(
    videos: Iterable[Place],
    read: Reader,
    predict: Predict,
    *,
    batch_size: int,
    workers: int,
    is_windowed: bool,
    max_ahead: int,
) -> Iterator[Computed | End]:
    """Yield the windows of each video and then its end, in order. Threads decode the next videos.

    Batches are filled over videos. Which views form a batch depends on the videos alone, not on the speed of
    threads, so that the same videos give the same logits.

    Args:
        videos: Paths or URIs.
        read: Function that reads the views of a video.
        predict: Function that predicts a batch of views.
        batch_size: Views per batch.
        workers: Number of decoding threads.
        is_windowed: Whether a video has several views.
        max_ahead: Largest number of views that are decoded ahead; at least one per thread and one more.
    """
    if is_windowed:
        # One batch of each video that a thread reads or has just read.
        ahead, depth = workers + 1, max(min(batch_size, max_ahead // (workers + 1)), 1)
    else:
        # A whole video has one view. Two batches of them keep the threads busy while one is computed.
        ahead, depth = max(min(2 * batch_size + workers, max_ahead), workers + 1), 1
    waiting: list[View | End] = []
    num_views = 0
    reading = read_ahead(videos, read, workers=workers, ahead=ahead, depth=depth)
    # Closed at once by an error here or in the caller, so that no thread goes on.
    with contextlib.closing(reading):
        for video, views in reading:
            error = None
            try:
                for view in views:
                    waiting.append(view)
                    num_views += 1
                    if num_views == batch_size:
                        yield from _compute(waiting, predict)
                        waiting, num_views = [], 0
            except VideoError as problem:
                error = problem
            waiting.append(End(video, error))
            # Without views before it, there is nothing to wait for.
            if not num_views:
                yield from _compute(waiting, predict)
                waiting = []
    yield from _compute(waiting, predict)


def _compute(waiting: list[View | End], predict: Predict) -> Iterator[Computed | End]:
    views = [item for item in waiting if isinstance(item, View)]
    windows = iter(predict(views) if views else ())
    for item in waiting:
        if isinstance(item, View):
            yield Computed(next(windows), item.duration_seconds, item.num_frames)
        else:
            yield item


def predict_videos(
    events: Iterable[Computed | End], scores: WindowScores, on_window: OnWindow | None = None
) -> Iterator[Prediction | VideoError]:
    """Yield the prediction or the error of each video, in order, from the result of `predict_batches`."""
    computed: list[Computed] = []
    for event in events:
        if isinstance(event, Computed):
            computed.append(event)
            if on_window is not None:
                on_window(event.window)
            continue
        if event.error is not None:
            yield event.error
        else:
            yield scores.video(
                str(event.video),
                [each.window for each in computed],
                duration_seconds=computed[-1].duration_seconds,
                num_frames=computed[-1].num_frames,
            )
        computed = []


def checked_count(name: str, value: int | None, default: int) -> int:
    """Return a number of things, or the default if it is not given.

    Raises:
        ConfigError: The number is less than 1.
    """
    if value is not None and value < 1:
        raise ConfigError(f"{name} must be at least 1, got {value}")
    return default if value is None else value
