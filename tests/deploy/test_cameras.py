"""Frames of cameras and streams, from made sources."""

import itertools
import threading

import av
import cv2
import numpy as np
import pytest
from numbered_videos import write_numbered

from evclip_ray.data.video.decode import VideoError
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy import cameras
from evclip_ray.deploy.cameras import LiveReader, TimedFrame, at_rate
from evclip_ray.deploy.inputs import LiveSource

VIEW = ViewConfig(num_frames=4, short_side=32)
CAMERA = LiveSource("camera:0", 0)


def frames_at(*times):
    return [TimedFrame(time, np.full((1, 1, 3), number, np.uint8)) for number, time in enumerate(times)]


def numbers(frames):
    return [int(frame[0, 0, 0]) for frame in frames]


def test_constant_rate_keeps_every_frame():
    assert numbers(at_rate(frames_at(0, 0.1, 0.2, 0.3), 10)) == [0, 1, 2, 3]


def test_late_frames_are_neither_lost_nor_repeated():
    assert numbers(at_rate(frames_at(0, 0.13, 0.18, 0.34, 0.4), 10)) == [0, 1, 2, 3, 4]


def test_gap_shows_the_last_frame_and_a_burst_is_thinned():
    assert numbers(at_rate(frames_at(0, 0.1, 0.5, 0.6), 10)) == [0, 1, 1, 1, 1, 2, 3]
    assert numbers(at_rate(frames_at(*(number / 40 for number in range(9))), 10)) == [1, 5, 8]


def test_maximum_of_seconds_ends_an_endless_source():
    endless = (TimedFrame(number / 10, np.zeros((1, 1, 3), np.uint8)) for number in itertools.count())
    assert len(list(at_rate(endless, 10, max_seconds=2))) == 20
    assert list(at_rate([], 10)) == []


def fake_camera(monkeypatch, frames, *, fps=25.0, is_open=True):
    """Let OpenCV open a camera that gives these frames and then fails."""
    waiting = iter(frames)

    class Capture:
        is_released = False

        def isOpened(self):
            return is_open

        def get(self, what):
            assert what == cv2.CAP_PROP_FPS
            return fps

        def read(self):
            frame = next(waiting, None)
            return frame is not None, frame

        def release(self):
            Capture.is_released = True

    monkeypatch.setattr(cv2, "VideoCapture", lambda index: Capture())
    return Capture


def test_camera_gives_upright_rgb_frames_of_the_view(monkeypatch):
    blue = np.zeros((64, 128, 3), np.uint8)
    blue[..., 0] = 255
    capture = fake_camera(monkeypatch, [blue] * 3, fps=0)
    with LiveReader(CAMERA, VIEW) as reader:
        assert reader.fps == 25
        frames = list(itertools.islice(reader, 3))
        with pytest.raises(VideoError, match="the camera stopped"):
            next(iter(reader))
    assert [frame.pixels.shape for frame in frames] == [(32, 64, 3)] * 3
    assert frames[0].pixels.mean(axis=(0, 1)) == pytest.approx([0, 0, 255], abs=1)
    assert capture.is_released


def test_missing_camera_is_reported_with_the_remedy(monkeypatch):
    fake_camera(monkeypatch, [], is_open=False)
    with pytest.raises(VideoError, match=r"camera:0: this camera cannot be opened; .*/dev/video0"):
        LiveReader(CAMERA, VIEW)


def test_slow_reader_loses_the_oldest_frames(monkeypatch):
    fake_camera(monkeypatch, [np.zeros((32, 32, 3), np.uint8)] * 200)
    with LiveReader(CAMERA, VIEW) as reader:
        reader._thread.join(timeout=20)
        assert reader.num_dropped == 200 - cameras._QUEUE_FRAMES
        # The newest frames are left.
        assert len(list(itertools.islice(reader, cameras._QUEUE_FRAMES))) == cameras._QUEUE_FRAMES


def test_reader_ends_its_thread(monkeypatch):
    fake_camera(monkeypatch, itertools.repeat(np.zeros((32, 32, 3), np.uint8)))
    with LiveReader(CAMERA, VIEW) as reader:
        next(iter(reader))
    reader._thread.join(timeout=20)
    assert "evclip-ray-live" not in [thread.name for thread in threading.enumerate()]


def test_stream_is_read_by_ffmpeg_at_the_speed_of_its_times(tmp_path, monkeypatch):
    path = write_numbered(tmp_path / "a.mp4", "libx264", numbers=range(5))
    opened = av.open
    monkeypatch.setattr(cameras.av, "open", lambda url, **options: opened(str(path)))
    waited = []
    monkeypatch.setattr(cameras.time, "sleep", waited.append)
    with LiveReader(LiveSource("rtsp://host/1"), VIEW) as reader:
        frames = list(reader)
    assert reader.fps == 25
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    assert frames[0].pixels.shape[0] == 32
    assert 0.1 < max(waited) <= 0.16


def test_stream_that_is_not_there_is_reported():
    with pytest.raises(VideoError, match=r"cannot be opened \(Connection refused\)"):
        LiveReader(LiveSource("http://127.0.0.1:9/live.m3u8"), VIEW)


def test_stream_cannot_open_files_of_this_machine(tmp_path):
    write_numbered(tmp_path / "a.mp4", "libx264", numbers=range(5))
    with pytest.raises(VideoError, match="cannot be opened"):
        LiveReader(LiveSource(f"file://{tmp_path}/a.mp4"), VIEW)
