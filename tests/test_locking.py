"""Two processes that build the same folder at once, with real processes and SIGKILL."""

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


def test_second_process_waits_and_sees_the_built_folder(tmp_path, caplog):
    folder = tmp_path / "made"
    with hold(folder, 0.5) as process:
        assert process.stdout.readline() == "held\n"
        with building([folder]):
            assert folder.is_dir()
    assert process.returncode == 0
    assert f"{folder}: another process is building it" in caplog.text


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
