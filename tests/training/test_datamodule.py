"""Decoded videos: leaks are refused and disk space is checked before decoding."""

import csv
import dataclasses
import shutil
from types import SimpleNamespace

import pytest

from evclip_ray.data.manifest.manifest import ManifestError
from evclip_ray.training import datamodule
from evclip_ray.training.datamodule import Videos, check_space, prepare
from evclip_ray.training.video_plan import plan_videos


def leaky_copy(manifest, folder):
    """Write a manifest whose test split has the bytes of a training video with another name."""
    shutil.copytree(manifest.parent, folder)
    with (folder / manifest.name).open() as stream:
        rows = list(csv.DictReader(stream))
    split = {name: next(row["path"] for row in rows if row["split"] == name) for name in ("train", "test")}
    shutil.copyfile(folder / split["train"], folder / split["test"])
    return folder / manifest.name


def test_same_bytes_in_two_splits_are_refused_before_decoding(plan_tiny, tiny_manifest, tmp_path):
    copy = str(leaky_copy(tiny_manifest, tmp_path / "copy"))
    refused = plan_tiny(data__manifest=copy)
    assert refused.leaking_rows == 0
    with pytest.raises(ManifestError, match=r"1 leak between splits \(1 by content\) reach 2 rows"):
        prepare(refused, cache=tmp_path / "cache")
    assert plan_tiny(data__manifest=copy, data__allow_leaks=True).leaking_rows == 2


def test_leaking_rows_are_saved_with_the_decoded_videos(tiny_videos, tmp_path):
    assert tiny_videos.leaking_rows == 0
    dataclasses.replace(tiny_videos, leaking_rows=3).save(tmp_path / "videos.json")
    assert Videos.load(tmp_path / "videos.json").leaking_rows == 3


def test_space_for_all_shards_is_checked_before_decoding(make_experiment, tmp_path, monkeypatch):
    plans = [plan_videos(make_experiment(view__num_frames=frames), cache=tmp_path) for frames in (4, 8)]
    each = {len(plan.rows["train"]) + len(plan.rows["val"]) for plan in plans}
    needed = each.pop() * 72 * 72 * 3 * (4 + 8)

    def free(size):
        monkeypatch.setattr(datamodule.shutil, "disk_usage", lambda folder: SimpleNamespace(free=size))

    free(needed)
    check_space(plans, cache=tmp_path)
    free(needed - 1)
    with pytest.raises(OSError, match=r"4 sets of videos \(4\.3 MiB are needed, 4\.3 MiB are free\)"):
        check_space(plans, cache=tmp_path)
    check_space(plans[:1], cache=tmp_path)
    begun = plans[0].folder("train", tmp_path)
    begun.mkdir(parents=True)
    (begun / "shard-00000.arrow").write_bytes(b"x")
    check_space(plans, cache=tmp_path)
