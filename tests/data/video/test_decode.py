import os
import pickle
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from evclip_ray.data.video import packet_index, reader
from evclip_ray.data.video.decode import (
    Fitting,
    VideoError,
    decode_frames,
    decode_view,
    decode_views,
    decoder_name,
    probe,
)
from evclip_ray.data.video.sampling import frame_indices
from evclip_ray.data.video.view import ViewConfig

SMALL = {"height": 32, "width": 32}
ALT_REF = {"auto-alt-ref": "1", "lag-in-frames": "8"}
FILES = {
    "key frame every 10": ("v.mp4", {"options": {"g": "10"}}),
    "one key frame": ("v.mp4", {"options": {"g": "250", "sc_threshold": "0"}}),
    "open groups": ("v.mp4", {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3"}}),
    "no b frames": ("v.mkv", {"options": {"g": "10", "bf": "0"}}),
    "transport stream": ("v.ts", {"options": {"g": "10"}}),
    "avi without times": ("v.avi", {"codec": "mpeg4", "options": {"bf": "2", "g": "10"}}),
    "invisible frames": ("v.webm", {"codec": "libvpx", "options": ALT_REF}),
    "vp9": ("v.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
}


@pytest.fixture(params=FILES)
def video(request, tmp_path, write_video):
    name, settings = FILES[request.param]
    return write_video(tmp_path / name, **settings)


def test_frame_is_the_same_by_seeking_and_in_sequence(video, decoded):
    whole = decoded(video, Fitting(ViewConfig(height=32, width=32)))
    assert probe(video).num_frames == len(whole)
    for seed in range(6):
        indices = np.random.default_rng(seed).integers(0, len(whole), 5)
        assert (decode_frames(video, indices, **SMALL) == whole[indices]).all()
    for index in (0, 1, len(whole) - 1):
        assert (decode_frames(video, [index], **SMALL) == whole[[index]]).all()


def test_view_consists_of_the_sampled_frames(video, decoded):
    whole = decoded(video, Fitting(ViewConfig(height=32, width=32)))
    view = ViewConfig(**SMALL)
    views = decode_views(video, view=view, seeds=[None, 1, 2])
    for decoded, seed in zip(views, [None, 1, 2], strict=True):
        assert (decoded == whole[frame_indices(len(whole), view=view, seed=seed)]).all()
        assert (decoded == decode_view(video, view=view, seed=seed)).all()


def test_seeking_decodes_fewer_frames_than_all(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / "v.mp4", num_frames=200, options={"g": "10", "sc_threshold": "0"})
    given = []
    advance = reader._advance

    def counting(frames, time):
        return advance((given.append(frame.pts) or frame for frame in frames), time)

    monkeypatch.setattr(reader, "_advance", counting)
    decode_frames(path, [5, 195], **SMALL)
    assert len(given) < 20


def test_only_requested_frames_are_converted(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4")
    converted = []
    with reader.VideoReader(path) as video:
        video.read([3, 30, 3], lambda frame: converted.append(frame.pts) or np.zeros(1, np.uint8))
    assert len(converted) == 2


def test_probe_returns_the_facts_of_a_file(tmp_path, write_video):
    info = probe(write_video(tmp_path / "v.mp4", num_frames=45))
    assert (info.num_frames, info.fps, info.width, info.height) == (45, 30.0, 64, 48)
    assert (info.rotation, info.codec) == (0, "h264")
    assert info.duration_seconds == pytest.approx(1.5)


def test_wrong_index_falls_back_to_a_full_decode(tmp_path, write_video, decoded, monkeypatch):
    path = write_video(tmp_path / "v.webm", codec="libvpx", options=ALT_REF)
    whole = decoded(path, Fitting(ViewConfig(height=32, width=32)))
    original = packet_index._shown_frames

    def one_too_many(packets):
        times = sorted(time for time, _, _ in packets)
        return original([*packets, (times[-1] + 1, False, False), (times[3] + 1, False, False)])

    monkeypatch.setattr(packet_index, "_CODECS_WITH_INVISIBLE_FRAMES", ())
    monkeypatch.setattr(packet_index, "_shown_frames", one_too_many)
    frames = decode_frames(path, [2, 4, len(whole) + 1], **SMALL)
    assert (frames == whole[[2, 4, -1]]).all()


@pytest.mark.parametrize("kept_bytes", [0, 64 * 2**20])
def test_counted_frames_are_read_from_memory_or_file(tmp_path, write_video, decoded, monkeypatch, kept_bytes):
    monkeypatch.setattr(reader, "_KEPT_BYTES", kept_bytes)
    path = write_video(tmp_path / "v.avi", codec="mpeg4")
    whole = decoded(path, Fitting(ViewConfig(height=32, width=32)))
    assert (decode_frames(path, [39, 0, 20], **SMALL) == whole[[39, 0, 20]]).all()


def test_index_beyond_the_end_gives_the_last_frame(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", num_frames=9)
    frames = decode_frames(path, [8, 9, 449], **SMALL)
    assert (frames == frames[0]).all()
    with pytest.raises(ValueError, match="must be 0 or more, got -1"):
        decode_frames(path, [-1], **SMALL)


def test_video_of_one_frame_is_decoded(tmp_path, write_video):
    view = decode_view(write_video(tmp_path / "v.mp4", num_frames=1), view=ViewConfig(**SMALL))
    assert view.shape == (8, 32, 32, 3)
    assert (view == view[0]).all()


def test_part_is_cut_by_presentation_times(tmp_path, write_video, decoded):
    # 40 frames, the first 20 shown for one tick of 1/30 s each, the rest for four.
    times = [k if k < 20 else 20 + 4 * (k - 20) for k in range(40)]
    path = write_video(tmp_path / "v.mp4", times=times)
    whole = decoded(path, Fitting(ViewConfig(height=32, width=32)))
    view = ViewConfig(num_frames=5, **SMALL)
    part = decode_view(path, view=view, start_seconds=20 / 30, end_seconds=40 / 30)
    assert (part == whole[20:25]).all()
    assert (decode_view(path, view=view, end_seconds=5 / 30) == whole[:5]).all()
    assert (decode_view(path, view=view, start_seconds=80 / 30) == whole[35:]).all()


def test_part_of_an_avi_is_cut(tmp_path, write_video, decoded):
    path = write_video(tmp_path / "v.avi", codec="mpeg4")
    whole = decoded(path, Fitting(ViewConfig(height=32, width=32)))
    part = decode_view(path, view=ViewConfig(num_frames=3, **SMALL), start_seconds=1.0, end_seconds=1.1)
    assert (part == whole[30:33]).all()


def test_part_beyond_the_end_is_an_error_with_the_duration(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", num_frames=30)
    with pytest.raises(
        VideoError, match=r"no frame is shown from 2.0 to None s; the video runs from 0 to 0.97 s"
    ):
        decode_view(path, view=ViewConfig(), start_seconds=2.0)


def test_crop_keeps_the_aspect_and_the_centre(tmp_path):
    """Decode a wide picture with a white square in its centre: it remains a square in the centre."""
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        image = np.zeros((64, 128, 3), np.uint8)
        image[16:48, 48:80] = 255
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    crop = decode_frames(path, [0], height=32, width=32)[0, :, :, 0] > 128
    assert (crop.sum(0) > 8).sum() == pytest.approx(16, abs=1)
    assert (crop.sum(1) > 8).sum() == pytest.approx(16, abs=1)
    stretched = decode_frames(path, [0], height=32, width=32, fit="stretch")[0, :, :, 0] > 128
    assert (stretched.sum(0) > 8).sum() == pytest.approx(8, abs=1)


def test_sizes_that_do_not_divide_are_exact(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", width=70, height=38)
    for height, width, fit in [(33, 47, "crop"), (61, 16, "crop"), (33, 47, "stretch")]:
        assert decode_frames(path, [0], height=height, width=width, fit=fit).shape == (1, height, width, 3)


@pytest.mark.parametrize(("width", "height"), [(128, 72), (72, 128), (64, 48), (50, 50)])
def test_kept_aspect_has_the_pixels_of_the_crop_in_its_middle(tmp_path, write_video, width, height):
    path = write_video(tmp_path / "v.mp4", width=width, height=height)
    whole = decode_view(path, view=ViewConfig(num_frames=2, short_side=32))
    rows, columns = whole.shape[1:3]
    assert min(rows, columns) == 32
    assert max(rows, columns) == round(32 * max(width, height) / min(width, height))
    crop = decode_view(path, view=ViewConfig(num_frames=2, height=32, width=32))
    top, left = (rows - 32) // 2, (columns - 32) // 2
    assert (whole[:, top : top + 32, left : left + 32] == crop).all()


def test_name_with_a_colon_is_a_file(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / "http:" / "a:b.mp4")
    monkeypatch.chdir(tmp_path)
    assert probe("http:/a:b.mp4").num_frames == probe(path).num_frames


@pytest.mark.parametrize(
    ("degrees", "matrix"), [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))]
)
def test_rotation_of_the_header_is_applied(tmp_path, write_video, degrees, matrix):
    path = write_video(tmp_path / "v.mp4", num_frames=3)
    coded = decode_frames(path, [2], height=48, width=64)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (part << 16 for part in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    info = probe(path)
    assert (info.rotation, info.width) == (degrees, 64 if degrees == 180 else 48)
    turned = decode_frames(path, [2], height=info.height, width=info.width)
    assert (turned == np.rot90(coded, -degrees // 90, axes=(1, 2))).all()


def audio_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


BROKEN = {
    "absent": (lambda path, good: None, "No such file"),
    "a folder": (lambda path, good: path.mkdir(), "is a folder without numbered images"),
    "empty": (lambda path, good: path.touch(), "cannot be opened"),
    "noise": (lambda path, good: path.write_bytes(os.urandom(5000)), "cannot be opened"),
    "sound only": (lambda path, good: audio_only(path), "no video stream"),
    "cut": (lambda path, good: path.write_bytes(good.read_bytes()[:-2000]), "cannot be opened"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_unreadable_file_gives_a_reason_in_one_line(tmp_path, write_video, kind):
    break_it, reason = BROKEN[kind]
    path = tmp_path / "broken.mp4"
    break_it(path, write_video(tmp_path / "good.mp4"))
    with pytest.raises(VideoError, match=reason) as caught:
        decode_view(path, view=ViewConfig())
    assert "\n" not in caught.value.reason
    assert str(caught.value).startswith(str(path))


def test_truncated_tail_is_clamped(tmp_path, write_video, decoded):
    path = write_video(tmp_path / "v.mkv", num_frames=60, options={"g": "10"})
    whole = decoded(path, Fitting(ViewConfig(height=32, width=32)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    num_readable = probe(path).num_frames
    assert 5 < num_readable < 60
    assert (decode_frames(path, [0, num_readable - 2], **SMALL) == whole[[0, num_readable - 2]]).all()


def test_hole_in_the_middle_is_refused(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", options={"g": "250", "sc_threshold": "0", "bf": "0"})
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][20]
        start, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    with pytest.raises(VideoError, match="damaged in the middle"):
        decode_view(path, view=ViewConfig())


def test_video_errors_pickle():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "is broken")))
    assert (str(error), error.reason) == ("a.mp4: is broken", "is broken")


def test_decoder_name_contains_the_version():
    assert decoder_name().startswith(f"pyav {av.__version__} / ")


def test_reading_leaves_no_open_files(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        decode_view(path, view=ViewConfig(**SMALL))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
