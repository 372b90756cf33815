"""Two that make the same folder at once: real processes, really killed."""

import signal
import subprocess
import sys

import pytest

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


def test_the_second_waits_says_so_and_finds_what_the_first_made(tmp_path, caplog):
    folder = tmp_path / "made"
    with hold(folder, 0.5) as process:
        assert process.stdout.readline() == "held\n"
        with building([folder]):
            assert folder.is_dir()
    assert process.returncode == 0
    assert f"{folder}: another process is making it" in caplog.text


def test_a_killed_holder_leaves_no_lock(tmp_path, caplog):
    folder = tmp_path / "made"
    with hold(folder, 600) as process:
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    with building([folder]):
        assert not folder.exists()
    assert lock_file(folder).is_file()
    assert not caplog.text


def test_an_error_within_lets_the_lock_go_and_other_folders_are_free(tmp_path, caplog):
    with pytest.raises(KeyError), building([tmp_path / "a", tmp_path / "b"]):
        raise KeyError
    with hold(tmp_path / "a", 600) as process:
        assert process.stdout.readline() == "held\n"
        with building([tmp_path / "b", tmp_path / "b"]):
            pass
        process.kill()
    assert not caplog.text


def test_where_nothing_can_be_written_there_is_no_lock_and_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    with building([tmp_path / "file" / "folder"]):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
