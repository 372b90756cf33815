"""Paths of a list and the files on the disk: other machines, other roots, other Unicode forms."""

import logging
import os

import fsspec
import numpy as np
import pytest

from evclip_ray.data.manifest.located_files import check_files, find_root
from evclip_ray.data.manifest.manifest import ManifestError, read_manifest

FILES = ("hug/1.mp4", "hug/2.mp4", "kick/1.mp4")


@pytest.fixture
def place(tmp_path):
    """Return a folder so deep that the search above it finds no files of other tests."""
    return tmp_path / "a" / "b" / "c"


@pytest.fixture
def videos(place):
    """Make three empty videos in a folder three levels below that of the lists."""
    folder = place / "data" / "ours" / "videos"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def listed(place):
    """Return a function that writes a list of paths and reads it."""

    def listed(paths, **options):
        file = place / "lists" / "m.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{path},{path.split('/')[-2]}" for path in paths]
        file.write_text("\n".join(["path,label", *lines, ""]))
        return read_manifest(file, **options)

    return listed


def check(manifest):
    check_files(manifest.column("path"), None, manifest.root, manifest.source)


@pytest.mark.parametrize("before", ["", "videos/", "ours/videos/", "/home/other/videos/", "/mnt/a/b/"])
def test_named_root_finds_the_files(videos, listed, before):
    paths = [before + name for name in FILES]
    with pytest.raises(ManifestError, match=r"3 of 3 videos are missing; the first is .*row 1") as error:
        check(listed(paths))
    root = str(error.value).rpartition("--root ")[2]
    manifest = listed(paths, root=root)
    check(manifest)
    assert sorted(str(manifest.locate(path)) for path in manifest.column("path")) == [
        str(videos / name) for name in FILES
    ]


def test_no_root_is_named_if_the_files_are_nowhere(videos, listed, tmp_path):
    with pytest.raises(ManifestError, match=r"no folder near the list has them; name .* --root FOLDER"):
        check(listed(["hug/8.mp4", "hug/9.mp4"]))
    # Half of the files are no root.
    with pytest.raises(ManifestError, match="--root FOLDER"):
        check(listed(["hug/1.mp4", "hug/9.mp4"]))


def test_some_missing_files_are_a_warning(videos, listed, caplog):
    with caplog.at_level(logging.WARNING):
        check(listed([*FILES, "hug/9.mp4"], root=videos))
    assert "1 of 4 videos is missing; the first is 'hug/9.mp4' (row 4)" in caplog.text


def test_paths_are_not_shortened_without_a_named_root(videos, listed):
    manifest = listed(["other/1.mp4"], root=videos)
    assert manifest.column("path") == ["other/1.mp4"]
    (videos.parents[2] / "lists" / "1.mp4").touch()
    assert listed(["day/1.mp4"]).column("path") == ["day/1.mp4"]


def test_backslashes_are_explained(videos, listed, tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "hug").mkdir()
    (tmp_path / "lists" / "hug" / "1.mp4").touch()
    (tmp_path / "lists" / "m.csv").write_text("path,label\nhug\\1.mp4,hug\n")
    with pytest.raises(ManifestError, match="The paths have backslashes"):
        check(read_manifest(tmp_path / "lists" / "m.csv"))


def test_sample_is_bounded_and_spread(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(os.path, "exists", lambda path: looked.append(str(path)) or True)
    check_files([f"{k}.mp4" for k in range(100_000)], None, tmp_path, "m.csv")
    assert len(looked) == 64
    numbers = sorted(int(path.rpartition("/")[2].removesuffix(".mp4")) for path in looked)
    assert numbers[0] == 0
    assert numbers[-1] == 99_999
    assert max(np.diff(numbers)) < 2_000


def test_search_for_a_root_is_bounded(tmp_path, monkeypatch):
    for k in range(30):
        (tmp_path / f"f{k}" / "g").mkdir(parents=True)
    monkeypatch.setattr("evclip_ray.data.manifest.located_files._MAX_FOLDERS", 5)
    (tmp_path / "f29" / "g" / "a.mp4").touch()
    assert find_root(["a.mp4"], tmp_path, str(tmp_path / "m.csv")) is None


def test_root_in_a_storage_is_found_above():
    system = fsspec.filesystem("memory")
    system.pipe({"/located/set/videos/hug/1.mp4": b"x", "/located/set/lists/m.csv": b"path,label\n"})
    with pytest.raises(ManifestError, match=r"1 of 1 video .* --root memory://located/set$"):
        check_files(
            ["videos/hug/1.mp4"], None, "memory://located/set/lists", "memory://located/set/lists/m.csv"
        )


@pytest.mark.parametrize(
    ("on_disk", "in_list"),
    [("cafe\u0301", "caf\u00e9"), ("caf\u00e9", "cafe\u0301"), ("\u110f\u1161", "\uce74")],
)
def test_names_in_the_other_unicode_form_are_found(tmp_path, on_disk, in_list):
    (tmp_path / on_disk).mkdir()
    (tmp_path / on_disk / f"{on_disk}.mp4").touch()
    (tmp_path / "m.csv").write_text(f"path,label\n{in_list}/{in_list}.mp4,x\n{in_list}/none.mp4,x\n")
    manifest = read_manifest(tmp_path / "m.csv")
    assert manifest.locate(manifest.column("path")[0]).is_file()


def test_exact_name_comes_before_the_other_form(tmp_path):
    for name in ("cafe\u0301.mp4", "caf\u00e9.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "m.csv").write_text("path,label\ncafe\u0301.mp4,x\ncaf\u00e9.mp4,y\n")
    assert read_manifest(tmp_path / "m.csv").column("path") == ["cafe\u0301.mp4", "caf\u00e9.mp4"]


def test_name_that_is_too_long_is_missing(tmp_path):
    (tmp_path / "m.csv").write_text(f"path,label\n{'x' * 300}.mp4,x\n")
    with pytest.raises(ManifestError, match="1 of 1 video is missing"):
        check(read_manifest(tmp_path / "m.csv"))
