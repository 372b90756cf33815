"""Preparation on full disks. In a separate file because its fixtures mount small disks."""

import pickle
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from synthetic_videos import write_synthetic

from evclip_ray.artifacts import file_digest
from evclip_ray.data.manifest.manifest import read_manifest
from evclip_ray.data.shards import prepare
from evclip_ray.data.shards.prepare import prepare_shards
from evclip_ray.data.video.view import ViewConfig

VIEW = ViewConfig(num_frames=4, height=32, width=32)
SETTINGS = {"view": VIEW, "num_views": 2, "seed": 5, "rows_per_shard": 4}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Return a manifest of 18 videos, one of which is noise."""
    folder = tmp_path_factory.mktemp("videos")
    manifest = read_manifest(write_synthetic(folder, videos_per_class=3, size=32, num_frames=12))
    (folder / "spinning_around/001.mp4").write_bytes(b"noise" * 100)
    return manifest


def contents(folder):
    return {path.name: file_digest(path) for path in folder.glob("*.arrow")}


def test_too_little_space_is_reported_before_decoding(manifest, tmp_path, monkeypatch, local_ray):
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="no space for shards"):
        prepare_shards(manifest, folder=tmp_path, **SETTINGS)


@pytest.fixture
def small_disk():
    """Mount a disk of 300 kB; the shards take 442 kB."""
    # Not under tmp_path, which pytest may remove before the disk is unmounted.
    folder = Path(tempfile.mkdtemp())
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"needs a small disk: {error}")
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def test_disk_that_fills_up_keeps_finished_shards(manifest, small_disk, tmp_path, monkeypatch, local_ray):
    with monkeypatch.context() as patch:
        # The check at the start passes, as if another program filled the disk afterwards.
        patch.setattr(prepare.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))
        with pytest.raises(OSError, match=r"no space for shards \(.* MiB needed.* free some space") as caught:
            prepare_shards(manifest, folder=small_disk, **SETTINGS)
    assert caught.value.errno == 28
    assert caught.value.filename == str(small_disk)
    finished = contents(small_disk)
    assert 0 < len(finished) < 5
    # Another process may be in the middle of its shard when the error is raised.
    partial = {path.name for path in small_disk.iterdir()} - set(finished)
    assert all(name.startswith(".shard-") for name in partial)
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    assert len(prepare_shards(manifest, folder=small_disk, **SETTINGS)) == 17
    assert not list(small_disk.glob(".shard-*")), "no partial shard remains"
    prepare_shards(manifest, folder=tmp_path, **SETTINGS)
    assert contents(small_disk) == contents(tmp_path)


def test_only_full_disk_errors_are_returned_as_rows(tmp_path, monkeypatch):
    def fail(number):
        def write(job, *, root, folder, guard):
            raise OSError(number, "x")

        return write

    job = SimpleNamespace(file="shard-00000.arrow", videos=[], work=1.0)
    writing = prepare.Writing(None, tmp_path, tmp_path, 60, "a")
    row = {"task": 0, "first": pickle.dumps(job)}
    for number in (28, 122):
        monkeypatch.setattr(prepare, "write_shard", fail(number))
        assert [row["full"] for row in prepare._run(row, writing=writing)] == [True]
    monkeypatch.setattr(prepare, "write_shard", fail(13))
    with pytest.raises(OSError, match="x"):
        list(prepare._run(row, writing=writing))
    assert not list(tmp_path.iterdir())
