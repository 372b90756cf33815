"""Parts of long videos: reading the packets around a part gives the same frames as the whole file."""

import numpy as np
import pytest

from evclip_ray.data.video import packet_index, reader
from evclip_ray.data.video.decode import Fitting, decode_view, part_of
from evclip_ray.data.video.reader import VideoError, VideoReader
from evclip_ray.data.video.sampling import frame_indices
from evclip_ray.data.video.view import ViewConfig

VIEW = ViewConfig(num_frames=4, height=32, width=32)
FILES = {
    "key frame every 10": ("v.mp4", {"options": {"g": "10", "sc_threshold": "0"}}),
    "one key frame": ("v.mp4", {"options": {"g": "500", "sc_threshold": "0"}}),
    "open groups": ("v.mp4", {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3:scenecut=0"}}),
    "no b frames": ("v.mkv", {"options": {"g": "10", "bf": "0"}}),
    "b frames in matroska": ("v.mkv", {"options": {"g": "25", "bf": "3", "sc_threshold": "0"}}),
    "vp9": (
        "v.webm",
        {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "g": "20"}},
    ),
    "uneven times": (
        "v.mp4",
        {"options": {"g": "10"}, "times": [k if k < 60 else 60 + 3 * (k - 60) for k in range(150)]},
    ),
}
PARTS = [
    (0.0, 0.5),
    (None, 0.2),
    (1.0, 1.2),
    (2.5, None),
    (0.99, 3.0),
    (3.31, 3.41),
    (4.9, 9.0),
    (None, None),
]


@pytest.fixture(params=FILES, scope="module")
def video(request, tmp_path_factory, write_video):
    name, settings = FILES[request.param]
    return write_video(tmp_path_factory.mktemp("parts") / name, num_frames=150, **settings)


@pytest.mark.parametrize(("start", "end"), PARTS)
def test_part_equals_a_slice_of_a_full_decode(video, decoded, start, end):
    whole = decoded(video, Fitting(ViewConfig(height=32, width=32)))
    with VideoReader(video) as reader:
        first, last = part_of(reader, {"start_seconds": start, "end_seconds": end})
    frames = decode_view(video, view=VIEW, start_seconds=start, end_seconds=end)
    assert (frames == whole[first + frame_indices(last - first, view=VIEW)]).all()


def test_part_indexes_only_the_packets_around_it(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", num_frames=300, options={"g": "10", "sc_threshold": "0"})
    with VideoReader(path, start_seconds=5.0, end_seconds=5.5) as reader:
        assert reader.windowed
        assert len(reader.index.seconds) < 40
        assert reader.index.seconds[0] <= 5.0 < 5.5 <= reader.index.seconds[-1]


def test_error_of_a_part_beyond_the_end_has_the_duration(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", num_frames=60, options={"g": "10"})
    with pytest.raises(
        VideoError, match=r"no frame is shown from 3.0 to 4.0 s; the video runs from 0 to 1.97 s"
    ):
        decode_view(path, view=VIEW, start_seconds=3.0, end_seconds=4.0)


def test_wrong_index_of_a_part_falls_back_to_the_whole(tmp_path, write_video, decoded, monkeypatch):
    path = write_video(tmp_path / "v.mp4", num_frames=90, options={"g": "10", "bf": "0"})
    whole = decoded(path, Fitting(ViewConfig(height=32, width=32)))
    original = packet_index._index_of

    def one_too_many(shown, zero, base):
        if shown[0][0] > zero:
            shown = sorted([*shown, (shown[12][0] + 1, False)])
        return original(shown, zero, base)

    monkeypatch.setattr(packet_index, "_index_of", one_too_many)
    view = ViewConfig(num_frames=15, height=32, width=32)
    frames = decode_view(path, view=view, start_seconds=1.0, end_seconds=1.5)
    assert (frames == whole[30:45]).all()


def test_container_without_times_is_indexed_by_decoding(tmp_path, write_video):
    path = write_video(tmp_path / "v.avi", codec="mpeg4")
    with VideoReader(path, start_seconds=1.0, end_seconds=1.1) as reader:
        assert not reader.windowed
        assert len(reader.index.seconds) == 40


def test_times_count_from_the_first_frame_of_a_late_stream(tmp_path, write_video):
    late = write_video(tmp_path / "v.mkv", num_frames=90, options={"g": "10"}, times=range(300, 390))
    soon = write_video(tmp_path / "w.mkv", num_frames=90, options={"g": "10"})
    part = {"start_seconds": 1.0, "end_seconds": 2.0}
    assert (decode_view(late, view=VIEW, **part) == decode_view(soon, view=VIEW, **part)).all()


def test_reading_a_part_seeks_to_it(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / "v.mp4", num_frames=300, options={"g": "10", "sc_threshold": "0"})
    decoded_times = []
    advance = reader._advance

    def counting(frames, time):
        return advance((decoded_times.append(frame.pts) or frame for frame in frames), time)

    monkeypatch.setattr(reader, "_advance", counting)
    decode_view(path, view=VIEW, start_seconds=8.0, end_seconds=8.5)
    assert len(decoded_times) < 30
    assert np.min(decoded_times) > 0


def test_part_between_two_frames_is_an_error(tmp_path, write_video):
    path = write_video(tmp_path / "v.mp4", num_frames=9, times=range(0, 90, 10))
    with pytest.raises(VideoError, match=r"from 1.1 to 1.2 s; one frame is shown for longer than that"):
        decode_view(path, view=VIEW, start_seconds=1.1, end_seconds=1.2)
