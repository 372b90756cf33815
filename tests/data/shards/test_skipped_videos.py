"""A shard of good and bad videos: the bad ones are skipped with their reasons, whatever error they raise."""

import numpy as np
import pytest

from evclip_ray.data.shards import format
from evclip_ray.data.shards.crash_guard import CrashGuard
from evclip_ray.data.shards.format import ShardJob, read_outcomes, write_shard
from evclip_ray.data.shards.prepare import _videos
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
    assert first is third is None
    assert second.startswith("UnicodeDecodeError: 'utf-8' codec can't decode")


def test_name_that_is_too_long_is_skipped(tmp_path, write_video, job_of):
    write_video(tmp_path / "a.mp4", num_frames=4)
    job = job_of(LONG, "a.mp4")
    require_mounted(job, tmp_path)
    first, second = outcomes_of(job, tmp_path)
    assert first == "OSError: File name too long"
    assert second is None


def test_interrupt_is_no_fault_of_a_video(tmp_path, write_video, job_of, monkeypatch):
    write_video(tmp_path / "a.mp4", num_frames=4)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(format, "decode_views", interrupt)
    with pytest.raises(KeyboardInterrupt):
        outcomes_of(job_of("a.mp4"), tmp_path)
