"""Verification in processes that decoders crash, block or fill: every other video is still verified."""

import multiprocessing
import os
import signal
import time

import pytest

from evclip_ray.data.manifest import guarded_workers, integrity
from evclip_ray.data.storage import StorageError


def die_by(number):
    return lambda: os.kill(os.getpid(), number)


def fail():
    raise StorageError("s3://videos: access denied")


@pytest.fixture
def verify(tmp_path, write_video, make_manifest, monkeypatch):
    """Return a function that verifies three videos, of which the second does something."""

    def run(action, seconds=60.0):
        for name in "abc":
            write_video(tmp_path / f"{name}.mp4", num_frames=4)
        describe = integrity.describe

        def describe_or_act(video):
            if video.path.name == "b.mp4":
                action()
            return describe(video)

        monkeypatch.setattr(integrity, "describe", describe_or_act)
        monkeypatch.setattr(guarded_workers.run_guarded, "__kwdefaults__", {"seconds_per_video": seconds})
        manifest = make_manifest(path=["a.mp4", "b.mp4", "c.mp4"], label=["x"] * 3)
        return list(integrity.verify_manifest(manifest, workers=2, guarded=True))

    return run


@pytest.mark.parametrize(
    ("action", "seconds", "reason"),
    [
        (die_by(signal.SIGSEGV), 60.0, "the decoder crashed, signal 11 (Segmentation fault)"),
        (die_by(signal.SIGKILL), 60.0, "the process that decoded it was killed 5 times: too little memory?"),
        (lambda: time.sleep(60), 0.3, "took longer than 0.3 s to decode, the limit"),
    ],
)
def test_video_that_ends_or_blocks_its_process_is_broken(verify, action, seconds, reason):
    first, second, third = verify(action, seconds)
    assert (first.ok, third.ok) == (True, True)
    assert (second.row, second.path, second.reason) == (1, "b.mp4", reason)
    assert multiprocessing.active_children() == []


def test_lost_storage_ends_the_verification(verify):
    with pytest.raises(StorageError, match="access denied"):
        verify(fail)
    assert multiprocessing.active_children() == []


def test_caller_that_stops_early_leaves_no_process():
    work = guarded_workers.run_guarded(lambda row, guard: row, ["a", "b", "c"], workers=2)
    assert next(work) == 0
    work.close()
    assert multiprocessing.active_children() == []
