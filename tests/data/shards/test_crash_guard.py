"""Processes that really end: by a signal, by the clock."""

import subprocess
import sys

import pytest

from evclip_ray.data.shards.crash_guard import Attempts
from evclip_ray.data.video.reader import VideoError

DIE_AT_VIDEO_1 = """
import os, signal, sys, time
from pathlib import Path
from evclip_ray.data.shards.crash_guard import Attempts
with Attempts(Path(sys.argv[1]), seconds=0.2) as attempts:
    with attempts.at(0, "a.mp4"):
        pass
    with attempts.at(1, "b.mp4"):
        {how}
"""
CRASH, HANG, KILL = "os.kill(os.getpid(), signal.SIGSEGV)", "time.sleep(60)", "os.kill(os.getpid(), 9)"


@pytest.fixture
def die(tmp_path):
    """Let a process die so many times while it is at the second video; what the next one finds."""

    def run(how, times=1):
        path = tmp_path / "attempts"
        for _ in range(times):
            command = [sys.executable, "-c", DIE_AT_VIDEO_1.format(how=how), str(path)]
            assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode
        return Attempts(path, seconds=0.2)

    return run


def reason(attempts, place=1):
    with attempts:
        try:
            with attempts.at(place, "b.mp4"):
                return None
        except VideoError as error:
            return error.reason


@pytest.mark.parametrize("how", [CRASH, KILL])
def test_a_process_that_died_once_is_no_proof(die, how):
    assert reason(die(how)) is None


def test_a_crash_that_repeats_is_told_by_its_signal(die):
    attempts = die(CRASH, times=2)
    assert reason(attempts) == "the decoder crashed, signal 11 (Segmentation fault)"
    assert not attempts.path.exists()


def test_a_video_that_takes_too_long_is_left_out_at_once(die):
    assert reason(die(HANG)) == "took longer than 0.2 s to decode, the limit"


def test_its_neighbour_is_decoded(die):
    assert reason(die(HANG), place=0) is None


def test_a_video_whose_process_is_killed_again_and_again_is_left_out(tmp_path):
    path = tmp_path / "attempts"
    path.write_bytes(b"start\nvideo 0\nvideo 1\n" * 4 + b"start\nvideo 0\n")
    assert reason(Attempts(path, seconds=60)) is None
    path.write_bytes(b"start\nvideo 0\nvideo 1\n" * 5)
    assert reason(Attempts(path, seconds=60)).startswith("the process that decoded it was killed 5 times")


def test_a_process_that_died_before_its_first_video_blames_none(tmp_path):
    path = tmp_path / "attempts"
    path.write_bytes(b"start\n" * 9)
    assert reason(Attempts(path, seconds=60)) is None
