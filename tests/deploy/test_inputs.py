"""Arguments that name videos and classes. No video is opened, so empty files do."""

import os
from pathlib import Path

import fsspec
import pytest

from evclip_ray.data.manifest.discovery import VIDEO_ENDINGS
from evclip_ray.deploy.inputs import InputError, LiveSource, class_names, find_inputs, live_source


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def touch(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def find(*arguments, lines=()):
    return find_inputs(arguments, lambda: list(lines))


def videos(*arguments, lines=()):
    return list(find(*arguments, lines=lines).videos)


def error(*arguments, lines=()):
    with pytest.raises(InputError) as caught:
        find(*arguments, lines=lines)
    return str(caught.value)


def test_folder_is_searched_for_every_ending_of_a_video():
    names = sorted(f"in/a/{ending}.{ending.upper()}" for ending in VIDEO_ENDINGS)
    touch(*names, "in/notes.txt", "in/.hidden.mp4", "in/__MACOSX/b.mp4", "in/.cache/c.mp4")
    found = find("in")
    assert sorted(found.videos) == names
    assert found.left_out == {".txt": 1, "hidden": 1, "system folder": 2}


def test_arguments_keep_their_order_without_repeats():
    touch("b.mp4", "a/1.mp4", "a/2.mp4")
    assert videos("b.mp4", "a", "a/1.mp4", "b.mp4") == ["b.mp4", "a/1.mp4", "a/2.mp4"]


def test_file_is_taken_with_any_ending_and_any_letters():
    names = ["-v", "--json", "a b.dat", "[x]*.mp4", "ü\udce9.mp4", "a\nb.mp4", "file:c.mp4", "0"]
    touch(*names)
    assert videos(*names) == names


def test_pattern_matches_videos_in_any_folder():
    touch("v/a/1.mp4", "v/b/2.avi", "v/b/labels.csv", "v/.git/3.mp4", "v/@eaDir/4.mp4", "v/5.mp4")
    assert videos("v/**/*") == ["v/5.mp4", "v/a/1.mp4", "v/b/2.avi"]
    assert videos("v/?") == ["v/a/1.mp4", "v/b/2.avi"]
    assert videos("v/@eaDir/*.mp4") == ["v/@eaDir/4.mp4"]


def test_list_holds_one_name_per_line():
    touch("a b.mp4", "*.mp4", "f/1.mp4")
    assert videos("-", lines=["a b.mp4\r\n", "\n", "*.mp4", "f\n"]) == ["a b.mp4", "*.mp4", "f/1.mp4"]


def test_folder_of_frames_is_one_video():
    touch("in/a/001.jpg", "in/a/002.jpg", "in/b/1.png")
    assert videos("in") == ["in/a", "in/b"]
    assert videos("in/a") == ["in/a"]


def test_objects_and_folders_of_a_storage_are_found():
    memory = fsspec.filesystem("memory")
    for name in ("/clips/a.mp4", "/clips/x/b.avi", "/clips/x/c.txt"):
        memory.pipe(name, b"")
    try:
        assert videos("memory://clips/") == ["memory://clips/a.mp4", "memory://clips/x/b.avi"]
        assert videos("memory://clips/a.mp4", "memory://clips/x") == [
            "memory://clips/a.mp4",
            "memory://clips/x/b.avi",
        ]
        assert "'memory://clips/none.mp4'" in error("memory://clips/a.mp4", "memory://clips/none.mp4")
        assert "patterns in URIs are not expanded" in error("memory://clips/*.mp4")
    finally:
        memory.rm("/clips", recursive=True)


def test_missing_files_are_named_together():
    touch("a.mp4")
    names = [f"none{number}.mp4" for number in range(7)]
    assert "'none0.mp4', 'none1.mp4', 'none2.mp4', 'none3.mp4', 'none4.mp4' and 2 more" in error(
        "a.mp4", *names
    )
    assert "'b.mp4'" in error("-", lines=["a.mp4", "b.mp4"])
    assert "no such video" in error("x" * 5000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("empty",), "empty: no video in this folder"),
        (("texts",), "no video in this folder (other files: 2 .txt, 1 hidden)"),
        (("*.avi",), "*.avi: no video matches this pattern"),
        (("texts/*",), "matches 2 files but no video, such as 'texts/a.txt'"),
        (("-",), "standard input holds no names"),
        (("pipe",), "is a pipe or a device"),
        (("a.mp4", "camera:0"), "must be the only input"),
    ],
)
def test_arguments_without_videos_are_refused(arguments, message):
    touch("texts/a.txt", "texts/b.txt", "texts/.c.mp4", "a.mp4")
    Path("empty").mkdir()
    os.mkfifo("pipe")
    assert message in error(*arguments)


def test_cameras_and_streams_are_told_from_files():
    assert live_source("0") == LiveSource("0", 0)
    assert live_source("camera:12") == LiveSource("camera:12", 12)
    streams = ["rtsp://u:p@host/1", "udp://239.0.0.1:1234", "http://host/video.mjpg", "https://h/a.m3u8?k=1"]
    assert [live_source(url) for url in streams] == [LiveSource(url) for url in streams]
    others = ["https://host/a.mp4?token=1", "s3://bucket/a", "camera.mp4", "1.mp4", "camera:", "٣"]
    assert [live_source(name) for name in others] == [None] * len(others)
    assert find("camera:1").live == LiveSource("camera:1", 1)
    touch("0")
    assert live_source("0") is None


def test_password_of_a_stream_is_not_shown():
    shown = [live_source(url).shown for url in ("rtsp://me:se:cr@t@host/1", "rtsp://host/a:b@c", "camera:0")]
    assert shown == ["rtsp://me:***@host/1", "rtsp://host/a:b@c", "camera:0"]
    assert "secret" not in error("rtsp://me:secret@host", "a.mp4")


def test_class_names_are_read_from_text_or_file(tmp_path):
    assert class_names(None, None) is None
    assert class_names(" a, b c ,,", None) == ("a", "b c")
    (tmp_path / "names.txt").write_bytes("\ufeff跳,跃\r\n\r\n# x \n".encode())
    assert class_names(None, tmp_path / "names.txt") == ("跳,跃", "# x")


@pytest.mark.parametrize(
    ("text", "content", "message"),
    [
        (" , ", None, "holds no class name"),
        ("", None, "holds no class name"),
        ("a,a", None, "'a' and 'a' are the same class"),
        ("shake_hands,b,Shake hands", None, "'shake_hands' and 'Shake hands' are the same class"),
        (None, b"\n", "holds no class name"),
        (None, b"\xff\xfe", "is not UTF-8"),
        (None, None, "cannot be read"),
        ("a", b"b", "exclude each other"),
    ],
)
def test_wrong_class_lists_are_refused(tmp_path, text, content, message):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        class_names(text, None if text is not None and content is None else path)
