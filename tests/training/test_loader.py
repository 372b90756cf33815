"""Batches of a set in memory and of a larger one: equal, with and without prefetching."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from evclip_ray.data.transforms import AugmentConfig
from evclip_ray.features.dataset import FeatureSet
from evclip_ray.features.format import write_features
from evclip_ray.features.spec import video_map
from evclip_ray.training import loader as module
from evclip_ray.training.loader import Batches

CPU = torch.device("cpu")
TASKS = Path("/proc/self/task")
MAPS = video_map("swin3d_debug", "random", backbone="debug", precision="float32", augment=None)


@pytest.fixture(scope="module")
def maps(tiny_videos, tmp_path_factory):
    """Return random maps of two views of the training videos."""
    features = FeatureSet(tmp_path_factory.mktemp("store"), MAPS, tiny_videos.sets["train"].shards, 2)
    for number, path in enumerate(features.files()):
        rows = torch.randn(64, 16, 2, 2, 2, generator=torch.Generator().manual_seed(number))
        write_features(path, rows, path.stem)
    return features


@pytest.fixture
def groups(tiny_videos):
    """Return the positions of the training videos in pairs, shuffled."""
    order = np.random.default_rng(0).permutation(len(tiny_videos.sets["train"]))
    return np.array_split(order, len(order) // 2)


def batches(videos, maps, *, pixels, device=CPU):
    return Batches(
        videos.sets["train"],
        size=64,
        device=device,
        bank=2,
        features={"video_map": maps},
        pixels=pixels,
        labelled=True,
    )


@pytest.mark.parametrize("pixels", [False, True])
def test_set_larger_than_memory_gives_the_same_batches(tiny_videos, maps, groups, monkeypatch, pixels):
    within = batches(tiny_videos, maps, pixels=pixels)
    assert not within.streams
    expected = list(within(groups, view=1))
    monkeypatch.setattr(module, "memory_bytes", lambda: 1000)
    beyond = batches(tiny_videos, maps, pixels=pixels)
    assert beyond.streams
    for batch, wanted in zip(beyond(groups, view=1), expected, strict=True):
        assert torch.equal(batch.video_map, wanted.video_map)
        assert torch.equal(batch.labels, wanted.labels)
        assert pixels == (batch.pixels is not None)
        assert not pixels or torch.equal(batch.pixels, wanted.pixels)


def test_prefetch_runs_ahead_of_reading(tiny_videos, maps, groups, monkeypatch):
    monkeypatch.setattr(module, "memory_bytes", lambda: 1000)
    monkeypatch.setattr(module, "_AHEAD_BYTES", 0)
    done = []
    for name in ("prefetch", "read"):
        original = getattr(FeatureSet, name)

        def noted(self, positions, view, name=name, original=original, **keywords):
            done.append((name, tuple(positions)))
            return original(self, positions, view, **keywords)

        monkeypatch.setattr(FeatureSet, name, noted)
    assert len(list(batches(tiny_videos, maps, pixels=False)(groups))) == len(groups)
    for number, group in enumerate(groups):
        prefetched, read = done.index(("prefetch", tuple(group))), done.index(("read", tuple(group)))
        between = {event for event in done[prefetched:read] if event[0] == "read"}
        assert prefetched < read
        assert len(between) >= min(number, 1)
    assert len(done) == 2 * len(groups)


def test_gpu_batches_are_read_into_pinned_memory(tiny_videos, maps, groups, monkeypatch):
    pinned, empty = [], torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *a, pin_memory=False, **k: pinned.append(pin_memory) or empty(*a, **k)
    )
    read = batches(tiny_videos, maps, pixels=True, device=torch.device("cuda"))._read(groups[0], 0)
    assert pinned == [True, True]
    assert torch.equal(read.features["video_map"], maps.read(groups[0], 0))
    assert pinned == [True, True, False]


def test_fresh_views_are_drawn_in_step_order(tiny_videos, groups):
    """Between batches, mixup and the epoch order draw from the same generator."""
    train, augment = tiny_videos.sets["train"], AugmentConfig()
    batches = Batches(train, size=32, device=CPU, augment=augment)
    generator, again = (torch.Generator().manual_seed(3) for _ in range(2))
    for group, batch in zip(groups, batches(groups, generator=generator), strict=True):
        drawn = torch.rand(1, generator=generator)
        frames = module.read_frames(train.shards, group, 0)
        labels = [train.shards.labels[p] for p in group]
        wanted = module.crop_batch(frames, size=32, augment=augment, generator=again, labels=labels)
        assert torch.equal(batch.pixels, wanted)
        assert torch.equal(drawn, torch.rand(1, generator=again))


@pytest.mark.skipif(not TASKS.is_dir(), reason="counts threads as Linux shows them")
def test_reading_thread_starts_no_openmp_team(tiny_videos, tmp_path):
    """A second OpenMP team would mean more threads than cores, which slows down every step."""
    large = FeatureSet(tmp_path, MAPS, tiny_videos.sets["train"].shards, 1)
    for path in large.files():
        write_features(path, torch.zeros(64, 64, 8, 16, 16), path.stem)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with ThreadPoolExecutor(1) as reader:
            reader.submit(int).result()
            before = len(list(TASKS.iterdir()))
            assert reader.submit(large.read, range(8)).result().shape == (8, 64, 8, 16, 16)
            assert len(list(TASKS.iterdir())) == before
    finally:
        torch.set_num_threads(threads)
