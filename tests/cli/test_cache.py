"""The commands `cache` and `studies`."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from evclip_ray.artifacts import write_json, write_ledger
from evclip_ray.cli import main
from evclip_ray.features.encode import TextJob, run_job
from evclip_ray.features.spec import class_text
from evclip_ray.locking import holding, lock_file

OLD_STUDY = Path(__file__).parents[1] / "data_files" / "old_study"


def call(*arguments, **options):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)


@pytest.fixture
def cache(tmp_path):
    """Return a cache with class texts, the shards of a study and those of nobody."""
    cache = tmp_path / "cache"
    run_job(TextJob(cache / "features", class_text("debug", "random"), ("one",)), torch.device("cpu"))
    for name in ("aaa1", "bbb2"):
        view = {"num_frames": 8, "short_side": 256}
        write_ledger(
            cache / "shards" / name,
            "shards",
            inputs={"view": view, "num_views": 2},
            counts={"videos": 5, "shards": 1},
        )
    root = tmp_path / "studies" / "mine"
    write_ledger(root, "study", inputs={"fixed": {}}, counts={})
    record = {"folders": {"train": str(cache / "shards" / "aaa1")}, "features": str(cache / "features")}
    write_json(root / "videos" / "1.json", record)
    checkpoint = {"experiment": {"backbone": {"name": "debug"}}, "weights": {"clip": "random"}}
    write_json(root / "best" / "config.json", checkpoint)
    return cache


def options(cache):
    return "--cache", cache, "--studies", cache.parent / "studies"


def test_cache_ls_shows_content_and_studies(cache):
    lines = call("cache", "ls", *options(cache)).output.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["aaa1", "bbb2"]
    assert lines[0].endswith("decoded videos: 5 videos, 2 views of 8 frames, 256 pixels  used by mine")
    assert "used by" not in lines[1]
    assert "features: class_text of debug (random, float32)  used by mine" in lines[2]
    assert lines[3].startswith("3 entries, ")


def test_cache_ls_as_json(cache):
    entries = json.loads(call("cache", "ls", *options(cache), "--json").output)
    assert [(entry["key"], len(entry["studies"])) for entry in entries[:2]] == [("aaa1", 1), ("bbb2", 0)]
    assert entries[0]["bytes"] > 0


def test_cache_rm_needs_the_beginning_of_one_key(cache):
    refused = call("cache", "rm", "none", "--cache", cache)
    assert refused.exit_code == 1
    assert "matches none; list the keys with `evclip-ray cache ls`" in refused.output
    assert "removed aaa1" in call("cache", "rm", "aa", "--cache", cache).output
    assert [path.name for path in (cache / "shards").glob("[!.]*")] == ["bbb2"]


def test_entry_that_is_written_is_kept(cache):
    with holding(lock_file(cache / "shards" / "aaa1"), ""):
        assert "kept aaa1: a process is writing it" in call("cache", "rm", "aaa1", "--cache", cache).output
    assert (cache / "shards" / "aaa1").is_dir()


def test_cache_prune_removes_what_no_study_uses(cache):
    asked = call("cache", "prune", "--unused", *options(cache), input="n\n")
    assert "bbb2" in asked.output
    assert "aaa1" not in asked.output
    assert (cache / "shards" / "bbb2").is_dir()
    call("cache", "prune", "--unused", "--yes", *options(cache))
    assert [path.name for path in (cache / "shards").glob("[!.]*")] == ["aaa1"]


def test_cache_prune_keeps_what_cannot_be_made_again(cache):
    for kind in ("synthetic", "checkpoints", "mine"):
        (cache / kind / "x").mkdir(parents=True)
    pruned = call("cache", "prune", "--unused", "--yes", *options(cache)).output
    assert "removed bbb2" in pruned
    assert all((cache / kind / "x").is_dir() for kind in ("synthetic", "checkpoints", "mine"))


def test_cache_prune_by_age_only_lists_in_a_dry_run(cache):
    then = time.time() - 40 * 86_400
    for path in [*(cache / "shards" / "bbb2").iterdir(), cache / "shards" / "bbb2"]:
        os.utime(path, (then, then))
    listed = call("cache", "prune", "--older-than", "30d", "--dry-run", *options(cache))
    assert "40 d old" in listed.output
    assert "1 entry" in listed.output
    assert (cache / "shards" / "bbb2").is_dir()


def test_cache_prune_without_a_condition_is_refused(cache):
    refused = call("cache", "prune", *options(cache))
    assert refused.exit_code == 1
    assert "--older-than 30d, --unused, or both" in refused.output


def test_cache_verify_counts_damaged_files(cache):
    assert call("cache", "verify", "--cache", cache).output == "1 file, 0 damaged\n"
    path = next((cache / "features").rglob("*.arrow"))
    path.write_bytes(path.read_bytes()[:-20])
    verified = call("cache", "verify", "--cache", cache)
    assert verified.exit_code == 1
    assert f"damaged  {path}" in verified.output


def test_studies_ls_shows_trials_and_scores(tmp_path):
    shutil.copytree(OLD_STUDY, tmp_path / "studies" / "old")
    lines = call("studies", "ls", tmp_path / "studies").output.splitlines()
    assert lines[0].endswith("studies/old")
    assert "complete" in lines[1]
    assert "zero-shot" in lines[1]
    assert lines[2] == "1 study"
    (record,) = json.loads(call("studies", "ls", tmp_path / "studies", "--json").output)
    assert record["val_top1"] > 0
    assert sum(record["trials"].values()) > 0


def test_studies_ls_without_a_folder_is_refused(tmp_path):
    refused = call("studies", "ls", tmp_path / "none")
    assert refused.exit_code == 1
    assert "is not a folder" in refused.output
