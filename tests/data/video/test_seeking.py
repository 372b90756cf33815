"""Files whose key flags, seek tables or edit lists mislead: their frames equal those of a full decode."""

import av
import numpy as np
import pytest
from numbered_videos import drop_sync_table, number_of, remux, set_box, set_edits, write_numbered

from evclip_ray.data.manifest.integrity import verify_manifest
from evclip_ray.data.video import packet_index
from evclip_ray.data.video.decode import Fitting, decode_frames, decode_view, probe
from evclip_ray.data.video.reader import VideoReader
from evclip_ray.data.video.sampling import frame_indices
from evclip_ray.data.video.view import ViewConfig

SIZE = {"height": 48, "width": 64}
GROUPS = {"g": "12", "sc_threshold": "0"}


def frames_and_truth(path, decoded, count=6):
    whole = decoded(path, Fitting(ViewConfig(**SIZE)))
    indices = np.random.default_rng(0).permutation(len(whole))[:count]
    alone = np.concatenate([decode_frames(path, [index], **SIZE) for index in indices])
    return alone, whole[indices]


@pytest.mark.parametrize(
    ("codec", "suffix", "pixels"),
    [
        ("mpeg4", "mp4", "yuv420p"),
        ("msmpeg4", "mov", "yuv420p"),
        ("cinepak", "mov", "rgb24"),
        ("qtrle", "mov", "rgb24"),
        ("libx264", "mp4", "yuv420p"),
        ("libx265", "mp4", "yuv420p"),
        ("svq1", "mov", "yuv410p"),
    ],
)
def test_false_key_flags_change_no_frame(tmp_path, decoded, codec, suffix, pixels):
    options = {**GROUPS, "x265-params": "keyint=12:log-level=none"} if codec == "libx265" else GROUPS
    path = write_numbered(tmp_path / f"v.{suffix}", codec, options=options, pixels=pixels)
    alone, truth = frames_and_truth(drop_sync_table(path), decoded)
    assert (alone == truth).all()


@pytest.mark.parametrize(("codec", "pixels"), [("qtrle", "gray"), ("rawvideo", "gray")])
def test_palette_of_the_first_packet_is_used(tmp_path, decoded, codec, pixels):
    path = write_numbered(tmp_path / "v.mov", codec, options={"g": "12"}, pixels=pixels)
    alone, truth = frames_and_truth(path, decoded, count=5)
    assert truth.max() > 200
    assert (alone == truth).all()
    part = decode_view(path, view=ViewConfig(num_frames=4, **SIZE), start_seconds=1, end_seconds=2)
    assert [number_of(frame) for frame in part] == [28, 34, 40, 46]


def test_codecs_that_need_earlier_packets_are_never_sought(tmp_path, monkeypatch):
    """A view needs one pass: the packets determine its frames, which are read from the beginning."""
    path = write_numbered(tmp_path / "v.mp4", "mpeg4", options=GROUPS)
    with VideoReader(path) as reader:
        assert reader.index.times is not None
        assert reader.index.keys.tolist() == [0]
    with VideoReader(path, start_seconds=1, end_seconds=2) as reader:
        assert not reader.windowed
    assert set(packet_index.SEEKABLE_CODECS) >= {"h264", "hevc", "vp9", "av1"}


def test_matroska_without_key_flags_and_cues_is_read(tmp_path):
    source = write_numbered(tmp_path / "v.mp4", "libx264", numbers=range(100), options={"g": "20"})

    def unflag(packet):
        packet.is_keyframe = False

    path = remux(source, tmp_path / "v.mkv", unflag, options={"live": "1"})
    view = decode_view(path, view=ViewConfig(num_frames=8, **SIZE))
    assert [number_of(frame) for frame in view] == [6, 18, 31, 43, 56, 68, 81, 93]
    assert probe(path).num_frames == 100


@pytest.mark.parametrize(
    ("cuts", "b_frames"),
    [([(0.3, 1.8), (4.3, 5.8)], "2"), ([(0.3, 1.1), (2.3, 3.1), (4.9, 5.9)], "0")],
)
def test_parts_of_a_file_with_several_cuts_equal_a_full_decode(tmp_path, decoded, cuts, b_frames):
    options = {"g": "20", "bf": b_frames, "sc_threshold": "0"}
    path = write_numbered(tmp_path / "v.mp4", "libx264", numbers=range(150), options=options)
    set_edits(path, cuts)
    whole = decoded(path, lambda frame: np.array([number_of(frame.to_ndarray(format="rgb24"))])).ravel()
    assert len(whole) == pytest.approx(25 * sum(end - start for start, end in cuts), abs=4)
    view = ViewConfig(num_frames=4, **SIZE)
    with VideoReader(path) as reader:
        seconds = reader.index.seconds
    for start, end in np.sort(np.random.default_rng(0).uniform(0, seconds[-1], (12, 2))):
        first, last = np.searchsorted(seconds + 1e-4, [start, end])
        if first < last:
            part = decode_view(path, view=view, start_seconds=start, end_seconds=end)
            expected = whole[first + frame_indices(last - first, view=view)]
            assert [number_of(frame) for frame in part] == expected.tolist()


@pytest.mark.parametrize(("codec", "suffix"), [("mjpeg", "mov"), ("mpeg4", "mp4")])
def test_empty_sample_is_no_damage(tmp_path, codec, suffix, make_manifest):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_numbered(
        tmp_path / f"v.{suffix}", codec, numbers=range(30), options={"g": "1", "bf": "0"}, pixels=pixels
    )
    with av.open(str(path)) as container:
        sizes = [packet.size for packet in container.demux(video=0)][:30]
    sizes[9:11] = [sizes[9] + sizes[10], 0]
    table = b"".join(size.to_bytes(4, "big") for size in [0, 0, 30, *sizes])
    set_box(path, ["moov", "trak", "mdia", "minf", "stbl", "stsz"], table)
    assert probe(path).num_frames == 29
    frames = decode_frames(path, range(29), **SIZE)
    assert [number_of(frame) for frame in frames] == [*range(10), *range(11, 30)]
    (report,) = verify_manifest(make_manifest(path=[path.name], label=["x"]), workers=1)
    assert report.reason == ""


def test_verify_reports_frames_that_differ_after_a_seek(tmp_path, make_manifest, monkeypatch):
    path = write_numbered(tmp_path / "v.mp4", "mpeg4", options=GROUPS)
    drop_sync_table(path)
    manifest = make_manifest(path=["v.mp4"], label=["x"])
    assert [report.ok for report in verify_manifest(manifest, workers=1)] == [True]
    monkeypatch.setattr(packet_index, "SEEKABLE_CODECS", {"mpeg4": "by mistake"})
    (report,) = verify_manifest(manifest, workers=1)
    assert "frames after a seek differ" in report.reason
