"""Two processes that build the same folder at once, with real processes and SIGKILL."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from evclip_ray import locking
from evclip_ray.locking import building, lock_file

HOLD = """
import sys, time
from pathlib import Path
from evclip_ray.locking import building
with building([Path(sys.argv[1])]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
    Path(sys.argv[1]).mkdir()
"""


def hold(folder, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def test_second_process_waits_and_names_the_holder(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(locking, "_SILENT_SECONDS", 0.1)
    folder = tmp_path / "made"
    with hold(folder, 0.5) as process:
        assert process.stdout.readline() == "held\n"
        with building([folder]):
            assert folder.is_dir()
    assert process.returncode == 0
    assert f"{folder} is in use by process {process.pid} on {os.uname().nodename}; waiting" in caplog.text


def test_short_wait_is_silent(tmp_path, caplog):
    with hold(tmp_path / "made", 0.1) as process:
        assert process.stdout.readline() == "held\n"
        with building([tmp_path / "made"]):
            pass
    assert not caplog.text


def test_killed_holder_leaves_no_lock(tmp_path, caplog):
    folder = tmp_path / "made"
    with hold(folder, 600) as process:
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    with building([folder]):
        assert not folder.exists()
    assert lock_file(folder).is_file()
    assert not caplog.text


def test_error_releases_the_lock_and_others_stay_free(tmp_path, caplog):
    with pytest.raises(KeyError), building([tmp_path / "a", tmp_path / "b"]):
        raise KeyError
    with hold(tmp_path / "a", 600) as process:
        assert process.stdout.readline() == "held\n"
        with building([tmp_path / "b", tmp_path / "b"]):
            pass
        process.kill()
    assert not caplog.text


def test_unwritable_parent_takes_no_lock(tmp_path):
    (tmp_path / "file").write_text("")
    with building([tmp_path / "file" / "folder"]):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_file_system_without_flock_uses_a_file_as_lock(tmp_path, monkeypatch):
    def missing(stream, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with building([tmp_path / "a"]):
        assert lock_file(tmp_path / "a").is_file()
    assert not lock_file(tmp_path / "a").exists()
    with building([tmp_path / "a"]):
        pass


def test_file_system_whose_locks_fail_is_an_error(tmp_path, monkeypatch):
    def refused(stream, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    message = r"No locks available; its file system does not support locks.*a\.lock"
    with pytest.raises(OSError, match=message), building([tmp_path / "a"]):
        pass
