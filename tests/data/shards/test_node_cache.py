"""Node copies of files on shared storage; two folders stand for the two disks."""

import collections
import os
import subprocess
import sys

import pytest

from evclip_ray.artifacts import ArtifactError
from evclip_ray.data.shards import node_cache
from evclip_ray.data.shards.node_cache import LOCAL, node_copy

Disk = collections.namedtuple("Disk", "total used free")


@pytest.fixture
def originals(tmp_path):
    """Return three files of a kilobyte on shared storage."""
    (tmp_path / "originals").mkdir()
    paths = [tmp_path / "originals" / f"{name}.arrow" for name in "abc"]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 1000)
    return paths


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the empty folder of copies; the leases of this process are released after the test."""
    monkeypatch.setenv(LOCAL, str(tmp_path / "folder"))
    # Copies are made also where the disk of the tests is nearly full.
    monkeypatch.setattr(node_cache, "_SPARE", 0.0)
    leases = collections.OrderedDict()
    monkeypatch.setattr(node_cache, "_leases", leases)
    yield tmp_path / "folder"
    release_all(leases)


def release_all(leases):
    while leases:
        leases.popitem()[1].close()


def copies(folder):
    return sorted(path.name for path in folder.glob("[!.]*"))


def small_disk(monkeypatch, folder, size):
    """Simulate a disk of `size` bytes that holds only the copies."""

    def usage(_):
        used = sum(path.stat().st_size for path in folder.glob("*.arrow"))
        return Disk(size, used, size - used)

    monkeypatch.setattr(node_cache.shutil, "disk_usage", usage)


def test_original_is_read_without_the_setting(originals, monkeypatch):
    monkeypatch.delenv(LOCAL, raising=False)
    assert node_copy(originals[0]) == originals[0]


def test_file_is_fetched_once_per_version(originals, folder):
    copy = node_copy(originals[0])
    assert copy.parent == folder
    assert copy.read_bytes() == originals[0].read_bytes()
    inode = copy.stat().st_ino
    assert node_copy(originals[0]) == copy
    assert copy.stat().st_ino == inode
    originals[0].write_bytes(b"new" * 1000)
    assert node_copy(originals[0]).read_bytes() == b"new" * 1000
    assert node_copy(originals[0].with_name("absent")) == originals[0].with_name("absent")


def test_damaged_copy_is_refused_truncated_one_replaced(originals, folder):
    with pytest.raises(ArtifactError, match="damaged"):
        node_copy(originals[0], lambda path: False)
    assert copies(folder) == []
    copy = node_copy(originals[0])
    os.truncate(copy, 10)
    assert node_copy(originals[0]).read_bytes() == originals[0].read_bytes()


FETCH = """
import sys
from pathlib import Path
from evclip_ray.data.shards import node_cache
node_cache._SPARE = 0.0
for name in sys.argv[1:]:
    print(node_cache.node_copy(Path(name)).stat().st_ino)
"""


def test_concurrent_processes_fetch_each_file_once(originals, folder):
    command = [sys.executable, "-c", FETCH, *map(str, originals)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    inodes = {process.communicate()[0] for process in processes}
    assert len(inodes) == 1, "all read the same three files"
    assert len(copies(folder)) == 3


def test_full_disk_evicts_oldest_copies_not_in_use(originals, folder, monkeypatch, caplog):
    small_disk(monkeypatch, folder, 2200)
    first, second = node_copy(originals[0]), node_copy(originals[1])
    assert node_copy(originals[2]) == originals[2], "both copies are being read"
    assert "too full for a copy" in caplog.text
    release_all(node_cache._leases)
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    third = node_copy(originals[2])
    assert copies(folder) == sorted([second.name, third.name])
    assert node_copy(originals[1]) == second


def test_leftovers_of_a_killed_fetch_are_removed(originals, folder):
    folder.mkdir()
    (folder / ".0123.arrow.abcd").write_bytes(b"half")
    node_copy(originals[0])
    assert len(list(folder.iterdir())) == 2, "the copy and the lock"


def test_unwritable_folder_is_reported_with_the_setting(originals, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(LOCAL, str(tmp_path / "file" / "folder"))
    with pytest.raises(OSError, match=rf"{LOCAL} must name a writable folder.*folder"):
        node_copy(originals[0])
