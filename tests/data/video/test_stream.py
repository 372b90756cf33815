"""Frames that are read one at a time: those of `read`, in order, in constant memory."""

import numpy as np
import pytest
from numbered_videos import number_of, write_numbered

from evclip_ray.data.video.decode import Fitting, open_video
from evclip_ray.data.video.reader import VideoReader
from evclip_ray.data.video.view import ViewConfig

VIEW = ViewConfig(height=48, width=64)
WANTED = [3, 3, 10, 11, 30, 59, 58]


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [
        ("libx264", "mp4", {"g": "12", "bf": "2"}),
        ("libx264", "mkv", {"g": "60"}),
        ("mpeg4", "avi", {"g": "12"}),
        ("mjpeg", "mov", {}),
    ],
)
def test_stream_has_the_frames_of_a_read(tmp_path, codec, suffix, options):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_numbered(tmp_path / f"v.{suffix}", codec, options=options, pixels=pixels)
    with open_video(path) as video:
        read = video.read(WANTED, Fitting(VIEW))
        streamed = list(video.stream(WANTED, Fitting(VIEW)))
    assert [index for index, _ in streamed] == sorted(set(WANTED))
    assert all(np.array_equal(image, read[index]) for index, image in streamed)
    assert [number_of(image) for _, image in streamed] == sorted(set(WANTED))


def test_stream_converts_a_frame_when_it_is_taken(tmp_path):
    converted = []
    fitting = Fitting(VIEW)

    def convert(frame):
        converted.append(frame.pts)
        return fitting(frame)

    path = write_numbered(tmp_path / "v.mp4", "libx264")
    with open_video(path) as video:
        images = video.stream(range(60), convert)
        assert not converted
        for count in range(1, 4):
            next(images)
            assert len(converted) == count


def test_stream_goes_on_where_the_packets_were_wrong(tmp_path):
    path = write_numbered(tmp_path / "v.mp4", "libx264", options={"g": "12"})
    with VideoReader(path) as video:
        # The packets announce a frame that does not exist.
        video.index.times[40] += 1
        streamed = list(video.stream(range(0, 60, 4), Fitting(VIEW)))
    assert [number_of(image) for _, image in streamed] == list(range(0, 60, 4))


def test_stream_of_frames_beyond_the_end_repeats_the_last(tmp_path):
    path = write_numbered(tmp_path / "v.avi", "mpeg4", numbers=range(10))
    with open_video(path) as video:
        streamed = list(video.stream([8, 12, 15], Fitting(VIEW)))
    assert [(index, number_of(image)) for index, image in streamed] == [(8, 8), (12, 9), (15, 9)]
