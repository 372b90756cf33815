"""A shard of good and bad videos: the bad ones are skipped with their reasons, whatever error they raise."""

import dataclasses

import numpy as np
import pytest
from numbered_videos import write_numbered

from evclip_ray.artifacts import read_json
from evclip_ray.data.shards import format
from evclip_ray.data.shards.crash_guard import CrashGuard
from evclip_ray.data.shards.format import Outcome, ShardJob, read_outcomes, write_shard
from evclip_ray.data.shards.prepare import _finish, _videos
from evclip_ray.data.shards.ray_nodes import require_mounted
from evclip_ray.data.video.decode import decoder_name
from evclip_ray.data.video.view import ViewConfig

VIEW = ViewConfig(num_frames=2, height=32, width=32)
LONG = f"{'a' * 300}.mp4"


@pytest.fixture
def job_of(make_manifest):
    def make(*paths):
        manifest = make_manifest(path=list(paths), label=["x"] * len(paths))
        return ShardJob(
            "s.arrow", _videos(manifest, np.arange(len(paths))), VIEW, 1, 0, decoder_name(VIEW.decoder)
        )

    return make


def outcomes_of(job, folder):
    with CrashGuard(folder / "log", seconds=60) as guard:
        write_shard(job, root=folder, folder=folder, guard=guard)
    return read_outcomes(folder / job.file)


def test_any_error_of_a_video_is_its_reason(tmp_path, write_video, job_of, monkeypatch):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write_video(tmp_path / name, num_frames=4)
    decode = format.decode_views

    def decode_or_fail(path, **options):
        if path.name == "b.mp4":
            raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid byte")
        return decode(path, **options)

    monkeypatch.setattr(format, "decode_views", decode_or_fail)
    first, second, third = outcomes_of(job_of("a.mp4", "b.mp4", "c.mp4"), tmp_path)
    assert first == third == Outcome()
    assert second.reason.startswith("UnicodeDecodeError: 'utf-8' codec can't decode")


def test_name_that_is_too_long_is_skipped(tmp_path, write_video, job_of):
    write_video(tmp_path / "a.mp4", num_frames=4)
    job = job_of(LONG, "a.mp4")
    require_mounted(job, tmp_path)
    first, second = outcomes_of(job, tmp_path)
    assert first.reason == "OSError: File name too long"
    assert second == Outcome()


def test_interrupt_is_no_fault_of_a_video(tmp_path, write_video, job_of, monkeypatch):
    write_video(tmp_path / "a.mp4", num_frames=4)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(format, "decode_views", interrupt)
    with pytest.raises(KeyboardInterrupt):
        outcomes_of(job_of("a.mp4"), tmp_path)


@pytest.mark.parametrize("pixels", ["stored", "display"])
def test_pixels_that_are_not_square_are_counted(tmp_path, job_of, caplog, pixels):
    for name, aspect in (("square.mp4", None), ("pal.mp4", "64/45")):
        write_numbered(
            tmp_path / name, "libx264", numbers=range(4), **({"pixel_aspect": aspect} if aspect else {})
        )
    job = dataclasses.replace(
        job_of("square.mp4", "pal.mp4"), view=VIEW.model_copy(update={"pixels": pixels})
    )
    outcomes = outcomes_of(job, tmp_path)
    assert [outcome.pixel_aspect for outcome in outcomes] == [None, "64/45"]
    _finish(tmp_path, [job], {})
    assert read_json(tmp_path / "ledger.json")["counts"]["pixels_not_square"] == 1
    said = "1 video has pixels that are not square (the first: pal.mp4, 64/45). view.pixels=stored"
    assert (said in caplog.text) == (pixels == "stored")
