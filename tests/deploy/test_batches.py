"""Batches over videos and windows: their composition, their order, and errors."""

import time
from pathlib import Path

import numpy as np
import pytest

from evclip_ray.data.video.decode import VideoError
from evclip_ray.deploy.batches import Computed, End, predict_batches, predict_videos
from evclip_ray.deploy.predictions import WindowPrediction
from evclip_ray.deploy.reading import View
from evclip_ray.deploy.window_scores import WindowScores

# Video -> number of its windows; a negative number fails after that many.
WINDOWS = {"a": 3, "b": 1, "broken": -2, "c": 4, "empty": 0, "d": 1}


def read(video):
    count = WINDOWS[video]
    for number in range(abs(count)):
        # The first videos are the slowest, which must change no batch.
        time.sleep(0.002 * (ord(video[0]) % 3))
        yield View(number, number + 1, np.zeros((1, 1, 1, 3), np.uint8), abs(count), abs(count))
    if count <= 0:
        raise VideoError(Path(video), "is broken")


def run(videos, *, size, workers, is_windowed=True, max_ahead=100):
    batches = []

    def predict(views):
        batches.append([view.start_seconds for view in views])
        logits = [np.array([view.start_seconds, 0], np.float32) for view in views]
        return [
            WindowPrediction(view.start_seconds, view.end_seconds, (), row)
            for view, row in zip(views, logits, strict=True)
        ]

    events = list(
        predict_batches(
            videos,
            read,
            predict,
            batch_size=size,
            workers=workers,
            is_windowed=is_windowed,
            max_ahead=max_ahead,
        )
    )
    return batches, events


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("max_ahead", [1, 100])
def test_batches_depend_on_the_videos_alone(workers, max_ahead):
    batches, events = run(WINDOWS, size=4, workers=workers, max_ahead=max_ahead)
    assert batches == [[0, 1, 2, 0], [0, 1, 0, 1], [2, 3, 0]]
    ends = [event for event in events if isinstance(event, End)]
    assert [(end.video, end.error is not None) for end in ends] == [
        (video, count <= 0) for video, count in WINDOWS.items()
    ]
    shown = "".join(
        event.video[0].upper() if isinstance(event, End) else str(event.window.start_seconds)
        for event in events
    )
    assert shown == "012A0B01B0123CE0D"


def test_failure_without_waiting_views_is_reported_at_once():
    batches, events = run(["empty", "empty"], size=4, workers=1)
    assert not batches
    assert [event.error.reason for event in events] == ["is broken", "is broken"]


def test_windows_of_a_failed_video_are_dropped():
    _, events = run(["a", "broken", "b"], size=2, workers=2)
    first, broken, last = predict_videos(events, WindowScores(("x", "y")))
    assert [window.start_seconds for window in first.windows] == [0, 1, 2]
    assert broken.reason == "is broken"
    assert (last.video, last.num_frames, len(last.windows)) == ("b", 1, 1)


def test_whole_videos_are_decoded_two_batches_ahead():
    taken = []

    def videos():
        for number in range(100):
            taken.append(number)
            yield "b"

    events = predict_batches(
        videos(),
        read,
        lambda views: [WindowPrediction(0, 1, (), np.zeros(2, np.float32)) for _ in views],
        batch_size=3,
        workers=2,
        is_windowed=False,
        max_ahead=100,
    )
    assert isinstance(next(events), Computed)
    assert len(taken) == 3 + 2 * 3 + 2 - 1
    events.close()
