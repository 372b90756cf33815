"""Crash guard with processes that die by a signal or at the time limit."""

import subprocess
import sys

import pytest

from evclip_ray.data.shards.crash_guard import CrashGuard
from evclip_ray.data.video.reader import VideoError

DIE_AT_VIDEO_1 = """
import faulthandler, os, signal, sys, time
from pathlib import Path
from evclip_ray.data.shards.crash_guard import CrashGuard
{before}
with CrashGuard(Path(sys.argv[1]), seconds=0.2) as guard:
    with guard.decoding(0, "a.mp4"):
        pass
    with guard.decoding(1, "b.mp4"):
        {how}
"""
CRASH, HANG, KILL = "os.kill(os.getpid(), signal.SIGSEGV)", "time.sleep(60)", "os.kill(os.getpid(), 9)"


@pytest.fixture
def die(tmp_path):
    """Let processes die at the second video; return the guard of the next process."""

    def run(how, times=1, before=""):
        path = tmp_path / "attempts"
        for _ in range(times):
            command = [sys.executable, "-c", DIE_AT_VIDEO_1.format(before=before, how=how), str(path)]
            assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode
        return CrashGuard(path, seconds=0.2)

    return run


def reason(guard, index=1):
    with guard:
        try:
            with guard.decoding(index, "b.mp4"):
                return None
        except VideoError as error:
            return error.reason


@pytest.mark.parametrize("how", [CRASH, KILL])
def test_single_death_skips_no_video(die, how):
    assert reason(die(how)) is None


def test_repeated_crash_is_reported_with_its_signal(die):
    guard = die(CRASH, times=2)
    assert reason(guard) == "the decoder crashed, signal 11 (Segmentation fault)"
    assert not guard.path.exists()


def test_crash_is_seen_where_another_handler_came_later(die):
    # As with Ray, whose handler of SIGSEGV replaces an earlier one of the interpreter.
    guard = die(CRASH, times=2, before="faulthandler.enable(); signal.signal(signal.SIGSEGV, signal.SIG_DFL)")
    assert reason(guard) == "the decoder crashed, signal 11 (Segmentation fault)"


def test_video_over_the_time_limit_is_skipped_at_once(die):
    assert reason(die(HANG)) == "took longer than 0.2 s to decode, the limit"


def test_neighbour_of_a_bad_video_is_decoded(die):
    assert reason(die(HANG), index=0) is None


def test_video_is_skipped_after_five_kills(tmp_path):
    path = tmp_path / "attempts"
    path.write_bytes(b"start\nvideo 0\nvideo 1\n" * 4 + b"start\nvideo 0\n")
    assert reason(CrashGuard(path, seconds=60)) is None
    path.write_bytes(b"start\nvideo 0\nvideo 1\n" * 5)
    assert reason(CrashGuard(path, seconds=60)).startswith("the process that decoded it was killed 5 times")


def test_death_before_the_first_video_skips_none(tmp_path):
    path = tmp_path / "attempts"
    path.write_bytes(b"start\n" * 9)
    assert reason(CrashGuard(path, seconds=60)) is None
