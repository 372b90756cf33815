"""The border of one video: whatever one file does, it is skipped with its reason and the others are read."""

import errno

import av
import numpy as np
import pytest
from numbered_videos import encode, number_of, write_numbered

from evclip_ray.data.manifest.integrity import verify_manifest
from evclip_ray.data.masks import MaskError
from evclip_ray.data.storage import StorageError
from evclip_ray.data.video.decode import VideoError, decode_frames, decode_view, open_video, probe
from evclip_ray.data.video.opening import one_video
from evclip_ray.data.video.reader import VideoReader, WrongIndexError
from evclip_ray.data.video.view import ViewConfig

VIEW = ViewConfig(num_frames=4, height=48, width=64)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid byte"),
            "UnicodeDecodeError: 'utf-8' codec can't",
        ),
        (AttributeError("no thread_count"), "AttributeError: no thread_count"),
        (PermissionError(errno.EPERM, "Operation not permitted"), "PermissionError: Operation not permitted"),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "OSError: File name too long"),
        (OSError(errno.EIO, "Input/output error"), "OSError: Input/output error"),
        (ZeroDivisionError("a\nb"), "ZeroDivisionError: a b"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_every_error_of_a_video_gets_its_file_type_and_text(error, reason):
    with pytest.raises(VideoError) as caught, one_video("a.mp4"):
        raise error
    assert caught.value.reason.startswith(reason)
    assert str(caught.value).startswith("a.mp4: ")


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        MemoryError(),
        StorageError("s3://b: access denied"),
        OSError(errno.ENOSPC, "No space left on device"),
        VideoError("b.mp4", "no frame decodes"),
        WrongIndexError(),
        MaskError("m.npz", "cannot be read"),
    ],
)
def test_errors_that_are_no_fault_of_the_video_pass(error):
    with pytest.raises(type(error)) as caught, one_video("a.mp4"):
        raise error
    assert caught.value is error


def test_lost_storage_is_no_fault_of_the_video(tmp_path, monkeypatch):
    path = write_numbered(tmp_path / "v.mp4", "libx264", numbers=range(4))

    def lost(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(av, "open", lost)
    with pytest.raises(StorageError, match=r"v.mp4: Stale file handle \(errno 116\); check the storage"):
        decode_view(path, view=VIEW)


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv"])
def test_tags_in_another_encoding_do_not_matter(tmp_path, suffix):
    path = tmp_path / f"v.{suffix}"
    with av.open(str(path), "w") as output:
        output.metadata["title"] = "A" * 16
        encode(output, output.add_stream("mpeg4", rate=25), numbers=range(12))
    data = path.read_bytes()
    assert b"A" * 16 in data
    path.write_bytes(data.replace(b"A" * 16, "Straße".encode("latin-1") + b"\x93\xfa" * 5))
    assert [number_of(frame) for frame in decode_view(path, view=VIEW)] == [1, 4, 7, 10]


def test_codec_without_a_decoder_is_a_reason(tmp_path):
    path = write_numbered(tmp_path / "v.avi", "mpeg4", numbers=range(4))
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"ZZ9X"))
    with pytest.raises(VideoError, match="no decoder for its codec"):
        probe(path)


def test_name_that_is_too_long_is_a_reason(tmp_path):
    with pytest.raises(VideoError, match="OSError: File name too long"):
        decode_view(tmp_path / f"{'a' * 300}.mp4", view=VIEW)


def test_failed_seek_is_answered_by_reading_in_sequence(tmp_path, monkeypatch):
    path = write_numbered(tmp_path / "v.mp4", "libx264", options={"g": "10", "sc_threshold": "0"})
    expected = decode_frames(path, [50], height=48, width=64)

    class Unseekable:
        def __init__(self, container):
            self._container = container

        def __getattr__(self, name):
            return getattr(self._container, name)

        def seek(self, *_, **__):
            raise av.error.PermissionError(errno.EPERM, "Operation not permitted")

    rewind = VideoReader._rewind

    def rewound(reader):
        rewind(reader)
        reader._container = Unseekable(reader._container)

    monkeypatch.setattr(VideoReader, "_rewind", rewound)
    assert (decode_frames(path, [50], height=48, width=64) == expected).all()


def test_verify_goes_on_after_any_error(tmp_path, monkeypatch, make_manifest):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write_numbered(tmp_path / name, "libx264", numbers=range(8))
    original = av.open

    def opened(file, *arguments, **options):
        if "b.mp4" in file:
            raise RuntimeError("a new kind of damage")
        return original(file, *arguments, **options)

    monkeypatch.setattr(av, "open", opened)
    manifest = make_manifest(path=["a.mp4", "b.mp4", "c.mp4"], label=["x"] * 3)
    reports = list(verify_manifest(manifest, workers=1))
    assert [report.ok for report in reports] == [True, False, True]
    assert reports[1].reason == "RuntimeError: a new kind of damage"


def two_streams(path, *, defaults):
    """Write a preview of 6 frames before the video of 20 frames."""
    with av.open(str(path), "w") as output:
        streams = []
        for size, default in zip([(32, 24), (64, 48)], defaults, strict=True):
            stream = output.add_stream("libx264", rate=25)
            (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
            stream.disposition = int(default)
            streams.append(stream)
        for stream, count in zip(streams, (6, 20), strict=True):
            for _ in range(count):
                image = np.zeros((stream.height, stream.width, 3), np.uint8)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            output.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(("defaults", "frames"), [((False, True), 20), ((True, False), 6), ((True, True), 6)])
def test_default_video_stream_is_read(tmp_path, suffix, defaults, frames):
    path = two_streams(tmp_path / f"v.{suffix}", defaults=defaults)
    with open_video(path) as video:
        assert len(video.index.seconds) == frames
        assert video.width == (64 if frames == 20 else 32)
