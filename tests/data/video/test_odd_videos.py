"""Unusual or damaged files as in real collections: each is read correctly or refused in one line."""

import struct

import av
import numpy as np
import pytest

from evclip_ray.data.manifest.integrity import verify_manifest
from evclip_ray.data.video.decode import Fitting, VideoError, decode_frames, decode_view, probe
from evclip_ray.data.video.view import ViewConfig

VIEW = ViewConfig(num_frames=4, height=32, width=32)


def verified(path, make_manifest):
    (report,) = verify_manifest(make_manifest(path=[path.name], label=["x"]), workers=1)
    return report


def without_frames(path, suffix):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_video_without_frames_is_refused(tmp_path, suffix, make_manifest):
    path = tmp_path / f"v.{suffix}"
    without_frames(path, suffix)
    assert path.stat().st_size > 0
    with pytest.raises(VideoError, match=r"no frame decodes|cannot be opened|no video stream"):
        decode_view(path, view=VIEW)
    assert not verified(path, make_manifest).ok


def redeclared(path, seconds):
    """Return an mp4 with another duration in its headers."""
    data = bytearray(path.read_bytes())
    for box, timescale_at in ((b"mvhd", 16), (b"mdhd", 16)):
        at = data.index(box) + timescale_at
        (timescale,) = struct.unpack_from(">I", data, at)
        struct.pack_into(">I", data, at + 4, int(seconds * timescale))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("seconds", [0, 0.1, 100])
@pytest.mark.parametrize("part", [{}, {"start_seconds": 0.5, "end_seconds": 1.0}])
def test_wrong_duration_in_the_header_changes_no_frame(tmp_path, write_video, seconds, part):
    path = write_video(tmp_path / "v.mp4")
    right = decode_view(path, view=VIEW, **part)
    redeclared(path, seconds)
    assert (decode_view(path, view=VIEW, **part) == right).all()
    assert probe(path).duration_seconds == pytest.approx(40 / 30)


def test_verify_ignores_a_wrong_duration_in_the_header(tmp_path, write_video, make_manifest):
    long = redeclared(write_video(tmp_path / "v.mp4"), 100)
    assert verified(long, make_manifest).ok


def test_changing_resolution_gives_frames_of_one_size(tmp_path, write_video, decoded):
    small = write_video(tmp_path / "small.ts", num_frames=20)
    large = write_video(tmp_path / "large.ts", num_frames=20, width=96, height=72)
    path = tmp_path / "v.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    whole = decoded(path, Fitting(ViewConfig(height=32, width=32)))
    with av.open(str(path)) as container:
        sizes = {(frame.width, frame.height) for frame in container.decode(video=0)}
    assert sizes == {(64, 48), (96, 72)}
    assert probe(path).num_frames == len(whole) == 40
    assert (decode_frames(path, [0, 19, 20, 39], height=32, width=32) == whole[[0, 19, 20, 39]]).all()
    assert decode_view(path, view=VIEW).shape == (4, 32, 32, 3)


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv422p10le", "gray10le"])
def test_10_bit_video_decodes_to_8_bit(tmp_path, pixels):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for number in range(6):
            image = np.full((48, 64, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    frames = decode_frames(path, range(6), height=32, width=32)
    assert np.abs(frames[:, 16, 16].astype(int) - 40 * np.arange(6)[:, None]).max() <= 3


def test_video_of_one_frame_repeats_it_in_every_view(tmp_path, write_video, make_manifest):
    path = write_video(tmp_path / "v.mp4", num_frames=1)
    frames = decode_view(path, view=VIEW, start_seconds=0.0, end_seconds=1.0)
    assert (frames == decode_frames(path, [0], height=32, width=32)).all()
    assert verified(path, make_manifest).ok


def test_file_with_audio_before_its_video_stream_is_read(tmp_path):
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        video = container.add_stream("mpeg4", rate=30)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            image = np.full((48, 64, 3), 8 * number, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            samples.sample_rate, samples.pts = 16000, 1024 * number
            container.mux(sound.encode(samples))
        container.mux(video.encode())
        container.mux(sound.encode())
    assert probe(path).num_frames == 30
    part = decode_view(path, view=VIEW, start_seconds=0.5, end_seconds=0.8)
    assert np.abs(part[:, 16, 16, 0].astype(int) - 8 * np.array([16, 18, 20, 22])).max() <= 16
