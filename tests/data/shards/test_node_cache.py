"""Copies of a shared folder's files on a node's own disk: two folders stand for the two."""

import collections
import os
import subprocess
import sys

import pytest

from evclip_ray.artifacts import ArtifactError
from evclip_ray.data.shards import node_cache
from evclip_ray.data.shards.node_cache import LOCAL, nearby

Disk = collections.namedtuple("Disk", "total used free")


@pytest.fixture
def far(tmp_path):
    """Three files of a kilobyte on shared storage."""
    (tmp_path / "far").mkdir()
    paths = [tmp_path / "far" / f"{name}.arrow" for name in "abc"]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 1000)
    return paths


@pytest.fixture
def near(tmp_path, monkeypatch):
    """The folder of copies, none yet; what this process holds is let go after the test."""
    monkeypatch.setenv(LOCAL, str(tmp_path / "near"))
    held = collections.OrderedDict()
    monkeypatch.setattr(node_cache, "_leases", held)
    yield tmp_path / "near"
    let_go(held)


def let_go(held):
    while held:
        held.popitem()[1].close()


def copies(near):
    return sorted(path.name for path in near.glob("[!.]*"))


def small_disk(monkeypatch, near, room):
    """A disk of `room` bytes that holds the copies and nothing else."""

    def usage(folder):
        used = sum(path.stat().st_size for path in near.glob("*.arrow"))
        return Disk(room, used, room - used)

    monkeypatch.setattr(node_cache.shutil, "disk_usage", usage)


def test_without_the_setting_a_file_is_read_where_it_is(far, monkeypatch):
    monkeypatch.delenv(LOCAL, raising=False)
    assert nearby(far[0]) == far[0]


def test_a_file_is_fetched_once_and_again_when_it_was_made_again(far, near):
    copy = nearby(far[0])
    assert copy.parent == near
    assert copy.read_bytes() == far[0].read_bytes()
    was = copy.stat().st_ino
    assert nearby(far[0]) == copy
    assert copy.stat().st_ino == was
    far[0].write_bytes(b"new" * 1000)
    assert nearby(far[0]).read_bytes() == b"new" * 1000
    assert nearby(far[0].with_name("absent")) == far[0].with_name("absent")


def test_a_damaged_copy_is_refused_and_one_cut_short_is_fetched_again(far, near):
    with pytest.raises(ArtifactError, match="damaged"):
        nearby(far[0], lambda path: False)
    assert copies(near) == []
    copy = nearby(far[0])
    os.truncate(copy, 10)
    assert nearby(far[0]).read_bytes() == far[0].read_bytes()


FETCH = """
import sys
from pathlib import Path
from evclip_ray.data.shards.node_cache import nearby
for name in sys.argv[1:]:
    print(nearby(Path(name)).stat().st_ino)
"""


def test_several_processes_that_start_at_once_fetch_each_file_once(far, near):
    command = [sys.executable, "-c", FETCH, *map(str, far)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    seen = {process.communicate()[0] for process in running}
    assert len(seen) == 1, "all read the same three files"
    assert len(copies(near)) == 3


def test_a_short_disk_loses_what_was_used_longest_ago_and_never_what_is_read(far, near, monkeypatch, caplog):
    small_disk(monkeypatch, near, 2200)
    first, second = nearby(far[0]), nearby(far[1])
    assert nearby(far[2]) == far[2], "both copies are being read"
    assert "no room for a copy" in caplog.text
    let_go(node_cache._leases)
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    third = nearby(far[2])
    assert copies(near) == sorted([second.name, third.name])
    assert nearby(far[1]) == second


def test_what_a_killed_fetch_left_is_removed(far, near):
    near.mkdir()
    (near / ".0123.arrow.abcd").write_bytes(b"half")
    nearby(far[0])
    assert len(list(near.iterdir())) == 2, "the copy and the lock"


def test_a_folder_that_cannot_be_written_to_is_named_with_the_cure(far, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(LOCAL, str(tmp_path / "file" / "near"))
    with pytest.raises(OSError, match=rf"{LOCAL} must name a folder.*near"):
        nearby(far[0])
