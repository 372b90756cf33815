"""Extraction of features on a real Ray: once per file, again if damaged, the same bytes after a crash."""

import dataclasses
import itertools
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from evclip_ray.artifacts import ArtifactError
from evclip_ray.config import ConfigError
from evclip_ray.data.manifest.manifest import read_manifest
from evclip_ray.data.shards.crash_guard import CrashGuard
from evclip_ray.data.shards.format import write_shard
from evclip_ray.data.shards.prepare import _plan, _videos, prepare_shards
from evclip_ray.data.transfers import read_frames
from evclip_ray.data.transforms import AugmentConfig
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.features.dataset import FeatureSet
from evclip_ray.features.encode import TextJob, is_done, run_job
from evclip_ray.features.extract import (
    Pool,
    _Encoder,
    _run_on_actors,
    plan_pool,
    prepare_features,
    view_jobs,
)
from evclip_ray.features.format import feature_file
from evclip_ray.features.spec import class_text, frame_features, video_map
from evclip_ray.features.view_cache import crop_views
from evclip_ray.locking import building
from evclip_ray.models.clip import load_clip

CPU = torch.device("cpu")
SETTINGS = {"precision": "float32", "augment": AugmentConfig(brightness=0.2)}
FRAMES = frame_features("debug", "random", normalization="own", **SETTINGS)
MAPS = video_map("swin3d_debug", "random", backbone="debug", **SETTINGS)
TEXTS = class_text("debug", "random")
VIEW = ViewConfig(num_frames=4, height=72, width=72)


@pytest.fixture(scope="module")
def manifest(tiny_manifest, tmp_path_factory):
    """Return a manifest of twelve videos; the second does not decode."""
    whole = read_manifest(tiny_manifest)
    folder = tmp_path_factory.mktemp("videos")
    paths = whole.table.column("path").to_pylist()[:12]
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes((tiny_manifest.parent / path).read_bytes())
    (folder / paths[1]).write_bytes(b"no video")
    return type(whole)(whole.table, folder, whole.source)


@pytest.fixture(scope="module")
def shards(manifest, tmp_path_factory):
    """Return eleven videos in files of four, decoded in this process: Ray would take ten seconds more."""
    folder = tmp_path_factory.mktemp("shards")
    for job in _plan(_videos(manifest, np.arange(12)), VIEW, 2, 0, 4):
        with CrashGuard(folder / f".{job.file}.attempts", seconds=60) as guard:
            write_shard(job, root=manifest.root, folder=folder, guard=guard)
    return decode(manifest, range(12), folder)


def decode(manifest, rows, folder):
    return prepare_shards(manifest, rows, view=VIEW, folder=folder, num_views=2, rows_per_shard=4)


def jobs_of(store, shards, num_views=2):
    views = [job for spec in (FRAMES, MAPS) for job in view_jobs(store, spec, shards, num_views)]
    return [*views, TextJob(store, TEXTS, ("A video of one.", "A video of two."))]


def contents(store):
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*.arrow")}


@pytest.fixture(scope="module")
def computed(shards, tmp_path_factory):
    """Return a store with every file, computed without Ray, and the bytes of the files."""
    store = tmp_path_factory.mktemp("store")
    run_all(jobs_of(store, shards))
    return store, contents(store)


def test_features_equal_those_of_a_training_step(shards, computed):
    store, _ = computed
    clip = load_clip("debug", "random")
    assert len(shards) == 11
    features = FeatureSet(store, FRAMES, shards, 2)
    positions = [9, 0, 4, 1]
    for view in (0, 1):
        pixels = crop_views(
            read_frames(shards, positions, view), shards, positions, view, size=64, augment=FRAMES.augment
        )
        expected = clip.encode_frames(clip.prepare(pixels))
        torch.testing.assert_close(features.read(positions, view), expected, atol=1e-5, rtol=1e-5)
    subset = FeatureSet(store, FRAMES, shards.subset([4, 9]), 2)
    assert torch.equal(subset.read([1, 0]), features.read([9, 4]))
    assert FeatureSet(store, MAPS, shards, 2).read([3]).shape == (1, 128, 2, 2, 2)


def test_ray_writes_the_same_bytes_as_one_process(shards, computed, tmp_path, local_ray):
    prepare_features(jobs_of(tmp_path, shards))
    assert contents(tmp_path) == computed[1]


@pytest.fixture
def one_process(monkeypatch, local_ray):
    """Run jobs in this process instead of actors, each of which spends seconds on its imports."""

    def run(jobs, pool):
        encoder = _Encoder(threads=1, device="cpu")
        return (encoder.encode(job) for job in jobs)

    monkeypatch.setattr("evclip_ray.features.extract._run_on_actors", run)


def test_more_views_compute_only_the_new_files(shards, computed, monkeypatch, one_process):
    store, before = computed
    times = {path: path.stat().st_mtime_ns for path in store.rglob("*.arrow")}
    with monkeypatch.context() as patched:
        patched.setattr("ray.is_initialized", lambda: False)
        prepare_features(jobs_of(store, shards))
    reported = []
    prepare_features(jobs_of(store, shards, num_views=3), progress=lambda *done: reported.append(done))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert contents(store).items() >= before.items()
    # Three shards x two networks x one more view.
    assert len(contents(store)) == len(before) + 6
    assert reported[-1] == (19, 19)
    # Once before the first file.
    assert [done for done, _ in reported] == list(range(13, 20))


def test_only_damaged_or_foreign_files_are_computed_again(shards, computed, one_process):
    store, _ = computed
    jobs = jobs_of(store, shards)
    paths = [feature_file(job.store, job.spec.key, job.key) for job in jobs[:4]]
    whole = contents(store)
    paths[0].write_bytes(paths[0].read_bytes()[:500])
    damaged = bytearray(paths[1].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    paths[1].write_bytes(damaged)
    paths[2].write_bytes(paths[3].read_bytes())
    times = {path: path.stat().st_mtime_ns for path in store.rglob("*.arrow") if path not in paths[:3]}
    assert [is_done(job) for job in jobs[:4]] == [False, False, False, True]
    prepare_features(jobs)
    assert contents(store) == whole
    assert {path: path.stat().st_mtime_ns for path in times} == times


FORK = multiprocessing.get_context("fork")
"""Processes that need not import anything. One thread each, because threads do not survive a fork."""


def write_under_lock(jobs, has_written):
    torch.set_num_threads(1)
    with building(job.store / job.spec.key for job in jobs):
        for job in jobs:
            run_job(job, CPU)
            has_written.set()


@pytest.fixture
def start_writer():
    """Start another process that holds the lock and writes features; return once it has written one."""

    def start(jobs):
        has_written = FORK.Event()
        process = FORK.Process(target=write_under_lock, args=(jobs, has_written))
        process.start()
        assert has_written.wait(60)
        return process

    return start


def test_killed_extraction_leaves_no_lock_and_resumes(shards, computed, start_writer, tmp_path, one_process):
    jobs = jobs_of(tmp_path / "store", shards)
    process = start_writer(jobs)
    process.kill()
    process.join()
    assert 1 <= sum(is_done(job) for job in jobs) < len(jobs)
    prepare_features(jobs)
    assert contents(tmp_path / "store") == {str(p): computed[1][str(p)] for p in files_of(jobs)}


def test_second_process_waits_and_reuses_the_files(shards, computed, start_writer, tmp_path, monkeypatch):
    jobs = jobs_of(tmp_path / "store", shards)
    monkeypatch.setattr("evclip_ray.features.extract._extract", lambda *a: pytest.fail("computed twice"))
    process = start_writer(jobs)
    prepare_features(jobs)
    process.join()
    assert process.exitcode == 0
    assert contents(tmp_path / "store") == {str(p): computed[1][str(p)] for p in files_of(jobs)}


def files_of(jobs):
    return [feature_file(job.store, job.spec.key, job.key).relative_to(job.store) for job in jobs]


def run_all(jobs):
    torch.set_num_threads(1)
    for job in jobs:
        run_job(job, CPU)


def test_two_processes_may_write_the_same_files(shards, tmp_path):
    store = tmp_path / "store"
    jobs = view_jobs(store, MAPS, shards, 2)
    both = [FORK.Process(target=run_all, args=(jobs,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert all(is_done(job) for job in jobs)
    assert not [path for path in store.rglob(".*") if path.is_file()], "no temporary file remains"


def test_unwritable_store_is_refused_before_loading_networks(shards, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="name a writable folder by --cache"):
        prepare_features(jobs_of(tmp_path / "file" / "store", shards))


ENCODER = """
import pickle, sys
from pathlib import Path
from evclip_ray.features.extract import _Encoder, _require_writable
encoder = _Encoder(threads=1, device="cpu")
for job in pickle.loads(Path(sys.argv[1]).read_bytes()):
    try:
        _require_writable(job.store)
        if error := encoder.encode(job):
            raise error
        print("written")
    except OSError as error:
        print(error)
"""
MOUNT = (
    'mount -t tmpfs -o size=64k none "$1/full" && mkdir "$1/full/store"'
    ' && mount --bind "$1/still" "$1/still" && mount -o remount,bind,ro "$1/still" && shift && exec "$@"'
)
# A user namespace may mount without root, and its mounts vanish with it.
MOUNTED = ["unshare", "--mount", "--map-root-user", "sh", "-c", MOUNT, "-"]


def test_full_and_read_only_disks_are_reported_in_one_line(shards, tmp_path):
    for name in ("full", "still"):
        (tmp_path / name).mkdir()
    probe = subprocess.run([*MOUNTED, tmp_path, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"needs to mount small disks, which is not allowed here: {probe.stderr.strip()}")
    full, still = tmp_path / "full" / "store", tmp_path / "still" / "store"
    jobs = [*view_jobs(full, MAPS, shards, 2), *view_jobs(still, MAPS, shards, 1)[:1]]
    (tmp_path / "jobs").write_bytes(pickle.dumps(jobs))
    command = [*MOUNTED, tmp_path, sys.executable, "-c", ENCODER, tmp_path / "jobs"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == "written", "the first file fits"
    assert lines[-2].startswith("[Errno 28] No space left on device; features cannot be written: free some")
    assert str(full) in lines[-2]
    assert lines[-1].startswith("[Errno 30] Read-only file system; features cannot be written: name a writ")
    assert str(still) in lines[-1]


def test_keys_tell_formats_apart_and_stay_those_of_earlier_versions():
    settings = {"precision": "float32", "augment": None}
    features = frame_features("ViT-B-16", None, normalization="own", **settings)
    maps = video_map("swin3d_s", "kinetics400", backbone="ViT-B-16", **settings)
    # Of the revision 8efba47: features that it stored are read.
    assert (features.key, maps.key) == ("53540c664c532b94", "d20b77465cd86780")
    kinds = itertools.product(("float32", "bfloat16"), ("cpu", "cuda"))
    variants = [dataclasses.replace(features, precision=name, device=device) for name, device in kinds]
    assert len({spec.key for spec in variants}) == 4


def test_pool_fills_every_node():
    eight, twelve, gpus = {"CPU": 8.0}, {"CPU": 12.0}, {"CPU": 16.0, "GPU": 2.0}
    assert plan_pool([{"CPU": 2.0}], 1.0) == (1, 2, 0.0, 2)
    assert plan_pool([twelve, twelve, {"CPU": 0.0}], 1.0) == (2, 8, 0.0, 8), "four idle cores each"
    assert plan_pool([eight, gpus], 1.0) == (2, 1, 1.0, 8), "a node without GPUs is not used"
    assert plan_pool([gpus], 1 / 3) == (6, 1, 1 / 3, 8)
    assert plan_pool([gpus], 0.6).actors == 2, "no actor has parts of two GPUs"
    assert plan_pool([{"CPU": 3.0, "GPU": 1.0}], 0.1).actors == 3, "each needs a core"
    assert plan_pool([{}], 1.0).actors == 1
    on_cpus = plan_pool([gpus], 0.0)
    assert on_cpus == (2, 8, 0.0, 8), "features of runs on CPUs are computed on CPUs"
    assert (on_cpus.jobs_at_once, plan_pool([gpus], 0.6).jobs_at_once) == (1, 3)


def test_actors_do_not_wait_for_one_that_cannot_start(shards, tmp_path, local_ray):
    pool = Pool(actors=2, cpus=2, gpus=0.0, threads=1)
    unavailable = frame_features("ViT-B-32", "nowhere", normalization="own", **SETTINGS)
    jobs = [*view_jobs(tmp_path, MAPS, shards, 1), *view_jobs(tmp_path, unavailable, shards, 1)[:1]]
    *written, error = _run_on_actors(jobs, pool)
    assert written == [None] * 3
    assert isinstance(error, ConfigError)
    assert re.search(r"ViT-B-32.*'nowhere'", str(error))


def test_error_of_an_actor_is_raised(shards, tmp_path, monkeypatch, local_ray):
    problem = ConfigError("no weights")
    monkeypatch.setattr(
        "evclip_ray.features.extract._run_on_actors", lambda jobs, pool: iter([None, problem])
    )
    with pytest.raises(ConfigError, match="no weights"):
        prepare_features(view_jobs(tmp_path, MAPS, shards, 1))


@pytest.mark.slow
def test_killed_actor_restarts_and_repeats_its_job(shards, tmp_path, monkeypatch, local_ray):
    mark = tmp_path / "killed"

    class Dying(_Encoder):
        def encode(self, job):
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().encode(job)

    monkeypatch.setattr("evclip_ray.features.extract._Encoder", Dying)
    jobs = view_jobs(tmp_path / "store", MAPS, shards, 1)
    prepare_features(jobs)
    assert mark.exists()
    assert all(is_done(job) for job in jobs)


@pytest.mark.slow
def test_new_videos_and_networks_compute_only_the_new_files(manifest, shards, tmp_path, local_ray):
    store, folder = tmp_path / "store", tmp_path / "shards"
    prepare_features(view_jobs(store, MAPS, decode(manifest, range(8), folder), 2))
    before = {path: path.stat() for path in store.rglob("*.arrow")}
    assert len(before) == 4
    prepare_features([job for spec in (MAPS, FRAMES) for job in view_jobs(store, spec, shards, 2)])
    after = {path: path.stat() for path in store.rglob("*.arrow")}
    assert len(after) == 12
    for path, old in before.items():
        assert (after[path].st_ino, after[path].st_mtime_ns) == (old.st_ino, old.st_mtime_ns)


def test_missing_file_is_an_artifact_error(shards, tmp_path):
    features = FeatureSet(tmp_path, FRAMES, shards, 1)
    with pytest.raises(ArtifactError, match="prepare the features again"):
        features.read([0])
    assert os.listdir(tmp_path) == []  # noqa: PTH208
