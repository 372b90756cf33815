"""Names of output files, and refusal of names that would destroy something."""

import os
from pathlib import Path

import pytest

from evclip_ray.deploy import outputs
from evclip_ray.deploy.inputs import InputError
from evclip_ray.deploy.outputs import Outputs, check_outputs, overlay_files


def check(videos=(), **files):
    check_outputs(Outputs(**files), videos)


def test_one_video_has_a_file_and_several_have_a_folder(tmp_path):
    assert overlay_files(tmp_path / "a.mp4", ["v.avi"]) == {"v.avi": tmp_path / "a.mp4"}
    assert overlay_files(tmp_path / "a", ["v.avi"]) == {"v.avi": tmp_path / "a" / "v.avi.mp4"}
    with pytest.raises(InputError, match=r"one file cannot hold 2 videos; give the name of a folder"):
        overlay_files(tmp_path / "a.mp4", ["1.mp4", "2.mp4"])
    with pytest.raises(InputError, match=r"overlays are \.mp4 files"):
        overlay_files(tmp_path / "a.avi", ["1.mp4"])


def test_overlays_stay_below_their_folder(tmp_path):
    videos = ["../../up.mp4", "/etc/passwd", "x/../../y.mp4", "-a.mp4", "s3://bucket/../b.mp4"]
    folder = tmp_path / "out"
    files = overlay_files(folder, videos)
    assert len(set(files.values())) == len(videos)
    for file in files.values():
        assert Path(os.path.realpath(file)).is_relative_to(folder)


def test_output_that_is_an_input_is_refused(tmp_path):
    video, link = tmp_path / "a.mp4", tmp_path / "link.mp4"
    video.touch()
    link.symlink_to(video)
    for name in (video, link, tmp_path / "x" / ".." / "a.mp4"):
        with pytest.raises(InputError, match="would replace the video"):
            check([str(video)], overlays={str(video): name})
    folder = overlay_files(tmp_path, [str(video)])
    with pytest.raises(InputError, match="would replace the video"):
        check([str(video)], overlays=folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"csv_file": "a.mp4"}, "has the ending of a video"),
        ({"json_file": "folder"}, "is a folder"),
        ({"sheet": "a.jpg"}, r"must end with \.png"),
        ({"sheet": "file/a.png"}, "is a file, not a folder"),
        ({"csv_file": "a.txt", "json_file": "./a.txt"}, "name the same file"),
    ],
)
def test_wrong_output_is_refused(tmp_path, monkeypatch, files, message):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    with pytest.raises(InputError, match=message):
        check(**{option: Path(name) for option, name in files.items()})


def test_read_only_folder_is_refused(tmp_path, monkeypatch):
    # The user of the tests may be root, who may write everywhere.
    monkeypatch.setattr(outputs.os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=f"because the folder {tmp_path} is read-only"):
        check(csv_file=tmp_path / "new" / "a.csv")


def test_new_folders_are_allowed(tmp_path):
    check(csv_file=tmp_path / "x" / "a.csv", sheet=tmp_path / "y" / "z" / "a.png")
