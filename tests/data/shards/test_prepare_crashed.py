"""Preparation of videos that really end the decoding process: they are quarantined like damaged ones.

In a separate file because its fixtures replace the decoder inside Ray's workers.
"""

import csv
import os
import signal
import time

import pytest
from synthetic_videos import write_synthetic

from evclip_ray.artifacts import file_digest, read_ledger
from evclip_ray.data.manifest.manifest import read_manifest
from evclip_ray.data.shards import prepare
from evclip_ray.data.shards.prepare import open_shards, prepare_shards
from evclip_ray.data.video.view import ViewConfig

SETTINGS = {"view": ViewConfig(num_frames=2, height=32, width=32), "rows_per_shard": 4}
BAD = "spinning_around/001.mp4"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Return a manifest of 18 videos, one of which is bad for the decoders of these tests."""
    return read_manifest(
        write_synthetic(tmp_path_factory.mktemp("videos"), videos_per_class=3, size=32, num_frames=8)
    )


@pytest.fixture
def at_the_bad_video(monkeypatch):
    """Return a function that sets what decoding processes do when they reach the bad video."""
    original = prepare._run

    def set_action(action):
        def run(row, *, writing):
            from evclip_ray.data.shards import format

            decode = format.decode_views

            def decode_or_not(path, **options):
                if str(path).endswith(BAD):
                    action()
                return decode(path, **options)

            format.decode_views = decode_or_not
            try:
                yield from original(row, writing=writing)
            finally:
                format.decode_views = decode

        monkeypatch.setattr(prepare, "_run", run)

    return set_action


def quarantine(folder):
    with (folder / "quarantine.csv").open(newline="") as stream:
        return [(row["path"], row["reason"]) for row in csv.DictReader(stream)]


@pytest.fixture
def neighbours(manifest):
    """Return the paths of the good videos."""
    return [path for path in manifest.column("path") if path != BAD]


def test_crashing_video_is_quarantined_for_good(
    manifest, neighbours, at_the_bad_video, tmp_path, monkeypatch, local_ray
):
    at_the_bad_video(lambda: os.kill(os.getpid(), signal.SIGSEGV))
    shards = prepare_shards(manifest, folder=tmp_path, **SETTINGS)
    assert shards.paths == neighbours
    assert quarantine(tmp_path) == [(BAD, "the decoder crashed, signal 11 (Segmentation fault)")]
    assert read_ledger(tmp_path, "shards")["counts"] == {"videos": 17, "skipped": 1, "shards": 5}
    assert not list(tmp_path.glob(".*"))
    before = {path: file_digest(path) for path in tmp_path.glob("*.arrow")}
    for name in ("ledger.json", "index.arrow"):
        (tmp_path / name).unlink()
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    assert prepare_shards(manifest, folder=tmp_path, **SETTINGS).paths == neighbours
    assert {path: file_digest(path) for path in tmp_path.glob("*.arrow")} == before


@pytest.mark.slow
def test_hanging_video_is_quarantined_after_the_limit(
    manifest, neighbours, at_the_bad_video, tmp_path, local_ray
):
    at_the_bad_video(lambda: time.sleep(600))
    shards = prepare_shards(manifest, folder=tmp_path, seconds_per_video=2, **SETTINGS)
    assert shards.paths == neighbours
    assert quarantine(tmp_path) == [(BAD, "took longer than 2 s to decode, the limit")]


@pytest.mark.slow
def test_video_whose_process_is_always_killed_is_quarantined(
    manifest, neighbours, at_the_bad_video, tmp_path, local_ray
):
    """The kernel kills processes like this when memory runs out."""
    at_the_bad_video(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert prepare_shards(manifest, folder=tmp_path, **SETTINGS).paths == neighbours
    assert quarantine(tmp_path) == [
        (BAD, "the process that decoded it was killed 5 times: too little memory?")
    ]


@pytest.mark.slow
def test_single_kill_costs_no_video(manifest, at_the_bad_video, tmp_path, local_ray):
    mark = tmp_path / "killed"

    def once():
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    at_the_bad_video(once)
    shards = prepare_shards(manifest, folder=tmp_path / "shards", **SETTINGS)
    assert mark.exists()
    assert len(open_shards(shards.folder)) == 18
    assert not shards.skipped


def test_memory_error_is_a_reason(manifest, neighbours, at_the_bad_video, tmp_path, local_ray):
    def exhaust():
        raise MemoryError

    at_the_bad_video(exhaust)
    assert prepare_shards(manifest, folder=tmp_path, **SETTINGS).paths == neighbours
    assert quarantine(tmp_path) == [(BAD, "needs more memory than there is")]
