"""Features on real Ray: made once, found when damaged, the same whatever happened on the way."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys

import pytest
import torch

from evclip_ray.artifacts import ArtifactError
from evclip_ray.config import ConfigError
from evclip_ray.data.manifest.manifest import read_manifest
from evclip_ray.data.shards.prepare import prepare_shards
from evclip_ray.data.transforms import AugmentConfig
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.features.dataset import FeatureSet
from evclip_ray.features.encode import TextJob, in_batches, is_done, run
from evclip_ray.features.extract import plan_pool, prepare_features, view_jobs
from evclip_ray.features.format import feature_file
from evclip_ray.features.spec import class_text, frame_features, video_map
from evclip_ray.features.view_cache import cut_views, read_frames
from evclip_ray.models.clip import load_clip

CPU = torch.device("cpu")
SETTINGS = {"precision": "float32", "augment": AugmentConfig(brightness=0.2)}
FRAMES = frame_features("debug", "random", normalization="own", **SETTINGS)
MAPS = video_map("swin3d_debug", "random", backbone="debug", **SETTINGS)
TEXTS = class_text("debug", "random")


@pytest.fixture(scope="module")
def listed(tiny_manifest, tmp_path_factory):
    """Twelve videos; the second does not decode."""
    whole = read_manifest(tiny_manifest)
    folder = tmp_path_factory.mktemp("videos")
    paths = whole.table.column("path").to_pylist()[:12]
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes((tiny_manifest.parent / path).read_bytes())
    (folder / paths[1]).write_bytes(b"no video")
    return type(whole)(whole.table, folder, whole.source)


@pytest.fixture(scope="module")
def shards(listed, tmp_path_factory, local_ray):
    """Eleven videos in files of four."""
    view = ViewConfig(num_frames=4, height=72, width=72)
    return prepare_shards(
        listed, range(12), view=view, folder=tmp_path_factory.mktemp("shards"), num_views=2, rows_per_shard=4
    )


def jobs_of(store, shards, num_views=2):
    views = [job for spec in (FRAMES, MAPS) for job in view_jobs(store, spec, shards, num_views)]
    return [*views, TextJob(store, TEXTS, ("A video of one.", "A video of two."))]


def contents(store):
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*.arrow")}


@pytest.fixture(scope="module")
def made(shards, tmp_path_factory):
    """A store with everything in it, and its files' bytes."""
    store = tmp_path_factory.mktemp("store")
    prepare_features(jobs_of(store, shards))
    return store, contents(store)


def test_features_are_those_that_a_step_would_compute(shards, made):
    store, _ = made
    clip = load_clip("debug", "random")
    assert len(shards) == 11
    found = FeatureSet(store, FRAMES, shards, 2)
    positions = [9, 0, 4, 1]
    for view in (0, 1):
        pixels = cut_views(
            read_frames(shards, positions, view), shards, positions, view, size=64, augment=FRAMES.augment
        )
        expected = clip.encode_frames(clip.prepare(pixels))
        torch.testing.assert_close(found.read(positions, view), expected, atol=1e-5, rtol=1e-5)
    some = FeatureSet(store, FRAMES, shards.subset([4, 9]), 2)
    assert torch.equal(some.read([1, 0]), found.read([9, 4]))
    assert FeatureSet(store, MAPS, shards, 2).read([3]).shape == (1, 128, 2, 2, 2)


def test_nothing_is_made_twice_and_more_views_cost_only_themselves(shards, made, tmp_path, monkeypatch):
    store, before = made
    times = {path: path.stat().st_mtime_ns for path in store.rglob("*.arrow")}
    with monkeypatch.context() as patched:
        patched.setattr("ray.is_initialized", lambda: False)
        prepare_features(jobs_of(store, shards))
    reported = []
    prepare_features(jobs_of(store, shards, num_views=3), progress=lambda *done: reported.append(done))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert contents(store).items() >= before.items()
    # Three files of frames, two networks, one more view.
    assert len(contents(store)) == len(before) + 6
    assert reported[-1] == (19, 19)
    assert len(reported) == 6


def test_a_damaged_or_foreign_file_is_made_again_alone(shards, made, tmp_path):
    store, _ = made
    jobs = jobs_of(store, shards)
    paths = [feature_file(job.store, job.spec.key, job.key) for job in jobs[:4]]
    whole = contents(store)
    paths[0].write_bytes(paths[0].read_bytes()[:500])
    damaged = bytearray(paths[1].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    paths[1].write_bytes(damaged)
    paths[2].write_bytes(paths[3].read_bytes())
    kept = {path: path.stat().st_mtime_ns for path in store.rglob("*.arrow") if path not in paths[:3]}
    assert [is_done(job) for job in jobs[:4]] == [False, False, False, True]
    prepare_features(jobs)
    assert contents(store) == whole
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


MAKES = """
import pickle, sys, torch
from pathlib import Path
from evclip_ray.locking import building
from evclip_ray.features.encode import run
torch.set_num_threads(1)
jobs = pickle.loads(Path(sys.argv[1]).read_bytes())
with building(job.store / job.spec.key for job in jobs):
    for job in jobs:
        run(job, torch.device("cpu"))
        print("one", flush=True)
"""


@pytest.fixture
def maker(tmp_path):
    """Starts another process that makes features, as the only one, and waits until it has made one."""

    def start(jobs):
        (tmp_path / "jobs").write_bytes(pickle.dumps(jobs))
        command = [sys.executable, "-c", MAKES, str(tmp_path / "jobs")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "one\n"
        return process

    return start


def test_a_killed_preparation_ends_with_the_same_bytes_and_leaves_no_lock(shards, made, maker, tmp_path):
    jobs = jobs_of(tmp_path / "store", shards)
    with maker(jobs) as process:
        process.send_signal(signal.SIGKILL)
    assert 1 <= sum(is_done(job) for job in jobs) < len(jobs)
    prepare_features(jobs)
    assert contents(tmp_path / "store") == {str(p): made[1][str(p)] for p in files_of(jobs)}


def test_who_comes_second_waits_and_reuses_what_the_first_makes(
    shards, made, maker, tmp_path, monkeypatch, caplog
):
    jobs = jobs_of(tmp_path / "store", shards)
    monkeypatch.setattr("evclip_ray.features.extract._extract", lambda *a: pytest.fail("made twice"))
    with maker(jobs) as process:
        prepare_features(jobs)
    assert process.returncode == 0
    assert "another process is making it" in caplog.text
    assert contents(tmp_path / "store") == {str(p): made[1][str(p)] for p in files_of(jobs)}


def files_of(jobs):
    return [feature_file(job.store, job.spec.key, job.key).relative_to(job.store) for job in jobs]


def _make_all(jobs):
    torch.set_num_threads(1)
    for job in jobs:
        run(job, CPU)


def test_two_that_make_the_same_at_once_do_no_harm(shards, made, tmp_path):
    store = tmp_path / "store"
    jobs = view_jobs(store, MAPS, shards, 2)
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=_make_all, args=(jobs,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert all(is_done(job) for job in jobs)
    assert not [path for path in store.rglob(".*") if path.is_file()], "no temporary file is left"


def test_a_disk_that_cannot_be_written_is_said_before_any_network_is_loaded(shards, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="name a writable folder by --cache"):
        prepare_features(jobs_of(tmp_path / "file" / "store", shards))


ENCODES = """
import pickle, sys
from pathlib import Path
from evclip_ray.features.extract import _Encoder, _require_writable
encode = _Encoder()
for job in pickle.loads(Path(sys.argv[1]).read_bytes()):
    try:
        _require_writable(job.store)
        if problem := encode({"job": pickle.dumps(job), "threads": 1})["problem"]:
            raise pickle.loads(problem)
        print("made")
    except OSError as error:
        print(error)
"""
# In a namespace of its own, where it may mount, and what it mounted goes with it.
MOUNTED = [
    "unshare", "--mount", "--map-root-user", "sh", "-c",
    'mount -t tmpfs -o size=64k none "$1/full" && mkdir "$1/full/store"'
    ' && mount --bind "$1/still" "$1/still" && mount -o remount,bind,ro "$1/still" && shift && exec "$@"',
    "-",
]  # fmt: skip


def test_a_full_and_a_read_only_disk_are_said_in_one_line_with_the_cure(shards, tmp_path):
    for name in ("full", "still"):
        (tmp_path / name).mkdir()
    may = subprocess.run([*MOUNTED, tmp_path, "true"], capture_output=True, text=True)
    if may.returncode:
        pytest.skip(f"needs to mount small disks, which is not allowed here: {may.stderr.strip()}")
    full, still = tmp_path / "full" / "store", tmp_path / "still" / "store"
    jobs = [*view_jobs(full, MAPS, shards, 2), *view_jobs(still, MAPS, shards, 1)[:1]]
    (tmp_path / "jobs").write_bytes(pickle.dumps(jobs))
    command = [*MOUNTED, tmp_path, sys.executable, "-c", ENCODES, tmp_path / "jobs"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "made", "there is room for some"
    assert said[-2].startswith("[Errno 28] No space left on device; features cannot be kept there: make room")
    assert str(full) in said[-2]
    assert said[-1].startswith("[Errno 30] Read-only file system; features cannot be kept there: name a writ")
    assert str(still) in said[-1]


def test_weights_that_cannot_be_had_are_the_users_mistake_in_one_line(shards, tmp_path):
    spec = frame_features("ViT-B-32", "nowhere", normalization="own", **SETTINGS)
    with pytest.raises(ConfigError, match=r"ViT-B-32.*'nowhere'"):
        prepare_features(view_jobs(tmp_path, spec, shards, 1))


def test_a_batch_that_does_not_fit_is_halved():
    tried = []

    def encode_some(start, stop):
        tried.append((start, stop))
        if stop - start > 2:
            raise torch.OutOfMemoryError("too many")
        return torch.arange(start, stop)

    assert torch.equal(in_batches(encode_some, 5, at_once=8), torch.arange(5))
    assert tried == [(0, 5), (0, 4), (0, 2), (2, 4), (4, 5)]

    def never(start, stop):
        raise torch.OutOfMemoryError("too many")

    with pytest.raises(torch.OutOfMemoryError):
        in_batches(never, 5, at_once=4)


def test_actors_are_as_many_as_every_node_has_room_for():
    eight, twelve, gpus = {"CPU": 8.0}, {"CPU": 12.0}, {"CPU": 16.0, "GPU": 2.0}
    assert plan_pool([{"CPU": 2.0}], 1.0) == (1, 2, 0.0, 2)
    assert plan_pool([twelve, twelve, {"CPU": 0.0}], 1.0) == (2, 8, 0.0, 8), "four cores are left on each"
    assert plan_pool([eight, gpus], 1.0) == (2, 1, 1.0, 8), "a node without GPUs has no room"
    assert plan_pool([gpus], 1 / 3) == (6, 1, 1 / 3, 8)
    assert plan_pool([gpus], 0.6).actors == 2, "no actor has parts of two GPUs"
    assert plan_pool([{"CPU": 3.0, "GPU": 1.0}], 0.1).actors == 3, "each needs a core"
    assert plan_pool([{}], 1.0).actors == 1


@pytest.mark.slow
def test_new_videos_and_another_network_cost_only_themselves(listed, shards, made, tmp_path):
    store, folder = tmp_path / "store", tmp_path / "shards"
    few = prepare_shards(listed, range(8), view=shards.view, folder=folder, num_views=2, rows_per_shard=4)
    prepare_features(view_jobs(store, MAPS, few, 2))
    before = {path: path.stat() for path in store.rglob("*.arrow")}
    assert len(before) == 4
    prepare_features([job for spec in (MAPS, FRAMES) for job in view_jobs(store, spec, shards, 2)])
    after = {path: path.stat() for path in store.rglob("*.arrow")}
    assert len(after) == 12
    for path, was in before.items():
        assert (after[path].st_ino, after[path].st_mtime_ns) == (was.st_ino, was.st_mtime_ns)


def test_a_missing_file_is_an_error_that_says_what_to_do(shards, tmp_path):
    found = FeatureSet(tmp_path, FRAMES, shards, 1)
    with pytest.raises(ArtifactError, match="prepare the features again"):
        found.read([0])
    assert os.listdir(tmp_path) == []  # noqa: PTH208
