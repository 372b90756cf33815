"""Batches of a frozen network: size, memory, and the turns of jobs that share a device."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from evclip_ray.features.batches import BatchSize, DeviceMemory, in_batches

CPU = torch.device("cpu")
GIB = 2**30


def read(start, stop):
    return torch.arange(start, stop)


@pytest.mark.parametrize(
    ("memory", "gib_per_video", "expected"),
    [
        ({}, 1.0, 63),
        ({}, 0.001, 128),
        ({}, 200.0, 1),
        # Another process has most of the card; memory that PyTorch holds unused counts as free.
        ({"free": 5 * GIB, "reserved": 6 * GIB}, 1.0, 9),
        # A quarter of 80 GiB without the weights.
        ({"share": 0.25}, 1.0, 17),
    ],
    ids=["memory", "images", "one", "shared card", "share"],
)
def test_batch_size_follows_from_the_memory(memory, gib_per_video, expected):
    usual = {"total": 80 * GIB, "free": 70 * GIB, "reserved": GIB, "allocated": GIB}
    size = DeviceMemory(**{**usual, **memory}).videos_per_batch(int(gib_per_video * GIB), num_frames=8)
    assert size == expected


def test_batch_that_does_not_fit_is_halved_once(caplog):
    size, batches = BatchSize(CPU, num_frames=8), []
    size.videos = 8

    def encode(frames, start):
        batches.append((start, len(frames)))
        if len(frames) > 2:
            raise torch.OutOfMemoryError("too many")
        return frames

    with caplog.at_level(logging.WARNING):
        assert torch.equal(in_batches(read, encode, 5, size), torch.arange(5))
        assert torch.equal(in_batches(read, encode, 3, size), torch.arange(3))
    assert batches == [(0, 5), (0, 2), (2, 2), (4, 1), (0, 2), (2, 1)], "later jobs keep the size"
    assert caplog.messages == ["out of memory: continuing with batches of 2 videos"]


def test_single_video_that_does_not_fit_is_an_error():
    def encode(frames, start):
        raise torch.OutOfMemoryError("too many")

    with pytest.raises(torch.OutOfMemoryError):
        in_batches(read, encode, 4, BatchSize(CPU, num_frames=8))


def test_next_job_reads_while_another_one_computes():
    has_read, computing = threading.Event(), []

    def encode(frames, start):
        computing.append(1)
        assert len(computing) == 1, "the memory is for one batch"
        # The second job can only read if reading needs no turn.
        assert has_read.wait(10)
        computing.pop()
        return frames

    def read_second(start, stop):
        has_read.set()
        return read(start, stop)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(in_batches, read, encode, 4, BatchSize(CPU, num_frames=8))
        second = pool.submit(in_batches, read_second, encode, 4, BatchSize(CPU, num_frames=8))
        assert torch.equal(first.result(), second.result())
