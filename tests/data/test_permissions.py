"""Files and folders that may not be read: counted skips and warnings with their names."""

import errno

import numpy as np
import pytest
from permissions import no_override

from evclip_ray.data import storage
from evclip_ray.data.manifest.discovery import find_videos
from evclip_ray.data.manifest.leaks import find_leaks
from evclip_ray.data.masks import MaskError, open_masks
from evclip_ray.data.shards.prepare import _videos
from evclip_ray.data.video.decode import VideoError, probe


@pytest.fixture
def closed(tmp_path):
    """Return the folder of `open.mp4`, its copy `closed.mp4`, and the folder of frames `frames`."""
    for name in ("open.mp4", "copy.mp4", "closed.mp4", "frames/img_1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"equal bytes")
    for name in ("closed.mp4", "frames"):
        (tmp_path / name).chmod(0)
    with no_override():
        yield tmp_path
    (tmp_path / "frames").chmod(0o755)


def test_leak_check_counts_files_that_cannot_be_read(closed, make_manifest, caplog):
    paths = ["open.mp4", "copy.mp4", "closed.mp4"]
    manifest = make_manifest(path=paths, label=["x"] * 3, split=["train", "test", "test"])
    (leak,) = find_leaks(manifest)
    assert leak.rows == (0, 1)
    assert caplog.messages == [
        "1 file could not be read, so that leaks by content are not found in them; the first is "
        f"{closed / 'closed.mp4'}: PermissionError: Permission denied"
    ]


def test_plan_with_a_closed_folder_of_frames_skips_it(closed, make_manifest):
    manifest = make_manifest(path=["open.mp4", "frames"], label=["x", "x"])
    opened, frames = _videos(manifest, np.arange(2))
    assert opened["bytes"] == 11
    assert (frames["bytes"], frames["modified"]) == (None, None)
    with pytest.raises(VideoError, match="frames: Permission denied"):
        probe(closed / "frames")


def test_lost_storage_is_not_an_absent_file(tmp_path, monkeypatch):
    (tmp_path / "frames").mkdir()

    def fail(path):
        raise OSError(errno.EMFILE, "Too many open files", path)

    monkeypatch.setattr(storage.os, "scandir", fail)
    with pytest.raises(OSError, match="Too many open files"):
        storage.identities(tmp_path, ["frames"])


def test_search_names_folders_that_cannot_be_read(closed, caplog):
    assert [path for path, _, _ in find_videos(closed)] == ["closed.mp4", "copy.mp4", "open.mp4"]
    assert caplog.messages == [f"{closed / 'frames'}: cannot be read (Permission denied) and is left out"]


def test_closed_folder_of_masks_is_named(closed):
    with pytest.raises(MaskError, match="frames: Permission denied"):
        open_masks(closed / "frames")
