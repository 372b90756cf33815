"""Stored frames on their way to a device, and results on their way back, while the device computes.

On a GPU, frames are read into pinned memory and copied on a stream of their own, and results are copied back
on another one. On a CPU nothing is copied, and frames are read when they are needed.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evclip_ray.data.shards.dataset import ShardSet
from evclip_ray.data.transforms import Frames, copied, to_device

Positions = Sequence[int] | npt.NDArray[np.int64]


@functools.cache
def _streams(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """Return the streams of copies to a GPU and from it."""
    # One pair for the process: PyTorch keeps the freed memory of each stream for that stream.
    return torch.cuda.Stream(device), torch.cuda.Stream(device)


def upload(frames: Frames, device: torch.device) -> Frames:
    """Return frames on a device. The copy to a GPU runs while it computes; later computations wait for it.

    Args:
        frames: Frames on the CPU, pinned for a GPU if possible.
        device: The device.
    """
    if isinstance(frames, Tensor):
        return upload_tensor(frames, device)
    return [upload_tensor(video, device) for video in frames]


def upload_tensor(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, copied as `upload` does."""
    if device.type != "cuda":
        return copied(values, device)
    to_gpu, _ = _streams(device)
    with torch.cuda.stream(to_gpu):
        moved = copied(values, device)
    computing = torch.cuda.current_stream(device)
    computing.wait_stream(to_gpu)
    # The memory belongs to the stream of the copy. Without this, the next copy could get it once the last
    # reference is gone, although the GPU has yet to read it.
    moved.record_stream(computing)
    return moved


def download(values: Tensor) -> Callable[[], Tensor]:
    """Start to copy results to the CPU. Later computations of a GPU do not wait for the copy.

    Args:
        values: Results on their device.

    Returns:
        Function that waits for the copy and returns it, in pinned memory for a GPU.
    """
    if values.device.type != "cuda":
        return values.cpu
    _, from_gpu = _streams(values.device)
    from_gpu.wait_stream(torch.cuda.current_stream(values.device))
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    # A blocking event: the thread sleeps instead of spinning on a core that other threads need.
    done = torch.cuda.Event(blocking=True)
    with torch.cuda.stream(from_gpu):
        copy.copy_(values, non_blocking=True)
        done.record()
    values.record_stream(from_gpu)

    def wait() -> Tensor:
        done.synchronize()
        return copy

    return wait


def read_frames(
    shards: ShardSet, positions: Positions, view: int, *, pinned: bool = False, release: bool = False
) -> Frames:
    """Read the stored frames from which cached view `view` is cropped: uint8, see `Frames`.

    Cached views cycle through the stored temporal views: with 2 of those, the cached views 0, 2 and 4 are
    cropped from the first one.

    Args:
        shards: The shard set of the videos.
        positions: Positions of the B videos in `shards`.
        view: Number of the cached view, from 0.
        pinned: Copy into pinned memory, for a transfer to a GPU.
        release: Drop the frames from this process's memory afterwards (for sets larger than memory).
    """
    shapes = shards.shapes(positions)
    sizes = [math.prod(shape) for shape in shapes]
    memory = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=pinned)
    # `memory.numpy()` is the tensor's own memory, so the frames are copied once, pinned or not.
    stored = shards.frames(positions, view % shards.num_views, out=memory.numpy(), release=release)
    if isinstance(stored, np.ndarray):
        return memory.view(stored.shape)
    return [video.view(shape) for video, shape in zip(memory.split(sizes), shapes, strict=True)]


def frame_batches(
    shards: ShardSet, groups: Sequence[npt.NDArray[np.int64]], *, device: torch.device, view: int = 0
) -> Iterator[Frames]:
    """Yield the stored frames of each group of videos on a device. For a GPU, a thread reads one group ahead.

    Args:
        shards: Decoded videos.
        groups: Positions of the videos of each batch.
        device: The device.
        view: Number of the stored view.
    """
    if device.type != "cuda":
        for positions in groups:
            yield to_device(shards.frames(positions, view=view), device)
        return
    with ThreadPoolExecutor(1) as reader:
        waiting: Future[Frames] | None = None
        for positions in groups:
            ready, waiting = waiting, reader.submit(read_frames, shards, positions, view, pinned=True)
            if ready is not None:
                yield upload(ready.result(), device)
        if waiting is not None:
            yield upload(waiting.result(), device)
