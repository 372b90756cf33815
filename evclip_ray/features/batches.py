"""Batches of a frozen network: their size, and the turns of jobs that share a GPU.

On a GPU, a job reads all frames of its shard into pinned memory. In its turn it launches the copies and the
computations of all batches, which takes less time than the GPU needs for them. It then waits for its results.
Jobs in several threads of a process therefore overlap: while the GPU computes for one, the frames of the next
are read and copied, and the results of the one before are copied back and written.

On a CPU, a job reads and computes one batch after another.
"""

import dataclasses
import logging
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from evclip_ray.data.transfers import download, upload
from evclip_ray.data.transforms import Frames
from evclip_ray.formatting import counted

log = logging.getLogger(__name__)

Encode = Callable[[Frames, int], Tensor]
"""Function of frames on the device and of the index of the first item; returns one row per item."""

JOBS_AT_ONCE = 3
"""Jobs of a process on a GPU: one reads, one computes, and one writes."""

_VIDEOS = 4
"""Videos per batch on a CPU, and in the first batch on a GPU, whose memory is measured."""
_MOST_IMAGES = 1024
"""Images per batch. More were not tried, and some kernels fail from 2**31 numbers per tensor on."""
_SAFE_SHARE = 0.9
"""Share of the memory for a batch. The rest is for frames of the next jobs and for fragments."""

_turn = threading.Lock()
"""Held while a job launches, so that the memory of the GPU holds the batch of one job."""


@dataclasses.dataclass(frozen=True)
class DeviceMemory:
    """Memory of a GPU in bytes.

    Attributes:
        total: Memory of the GPU.
        free: Memory that no process has.
        reserved: Memory that PyTorch holds in this process.
        allocated: Memory of the tensors of this process, such as the weights.
        share: Share of the GPU that this process may use.
    """

    total: int
    free: int
    reserved: int
    allocated: int
    share: float = 1.0

    @classmethod
    def of(cls, device: torch.device) -> "DeviceMemory":
        """Return the memory of a GPU as it is now."""
        free, total = torch.cuda.mem_get_info(device)
        return cls(
            total,
            free,
            torch.cuda.memory_reserved(device),
            torch.cuda.memory_allocated(device),
            # By its index: a device without one is refused here, and None is the current one.
            torch.cuda.get_per_process_memory_fraction(device.index),
        )

    def videos_per_batch(self, bytes_per_video: int, *, num_frames: int) -> int:
        """Return the number of videos whose computation fits, at least 1.

        >>> memory = DeviceMemory(total=80 * 2**30, free=70 * 2**30, reserved=2**30, allocated=2**30)
        >>> memory.videos_per_batch(2**30, num_frames=8), memory.videos_per_batch(2**20, num_frames=8)
        (63, 128)

        Here 0.9 x 70 videos fit in the free memory, and 128 videos have the 1,024 images of the largest
        batch.

        Args:
            bytes_per_video: Memory of the computation for one video, without weights.
            num_frames: Frames of a video.
        """
        unused = self.reserved - self.allocated
        usable = min(self.free + unused, self.share * self.total - self.allocated)
        fitting = int(_SAFE_SHARE * usable) // max(bytes_per_video, 1)
        return max(1, min(fitting, _MOST_IMAGES // num_frames))


class BatchSize:
    """Number of videos per batch of one network. A process keeps it, so that it is found once.

    On a GPU, the memory of the first batch gives the size of the later ones. A batch that does not fit halves
    it.

    Args:
        device: Device of the network.
        num_frames: Frames of a video.

    Attributes:
        videos: Videos per batch.
    """

    def __init__(self, device: torch.device, num_frames: int) -> None:
        self.device, self.num_frames, self.videos = device, num_frames, _VIDEOS
        self._is_final = device.type != "cuda"

    def run(self, encode: Encode, frames: Frames, start: int) -> Tensor | None:
        """Copy a batch to the device and return its results.

        Args:
            encode: Computation.
            frames: Frames of the batch on the CPU.
            start: Index of the first of its items.

        Returns:
            The results, or None if the batch does not fit in memory, after which `videos` is smaller.

        Raises:
            torch.OutOfMemoryError: A single video does not fit.
        """
        try:
            compute = encode if self._is_final else self._measured(encode)
            return compute(upload(frames, self.device), start)
        except torch.OutOfMemoryError:
            if len(frames) == 1:
                raise
        # After the clause: inside it, the traceback keeps the tensors of the batch.
        self.videos, self._is_final = len(frames) // 2, True
        if self.device.type == "cuda":
            # Returns the blocks of the larger batch to the driver. Otherwise they can be too fragmented for
            # the smaller one.
            torch.cuda.empty_cache()
        log.warning("out of memory: continuing with batches of %s", counted(self.videos, "video"))
        return None

    def _measured(self, encode: Encode) -> Encode:
        """Return `encode` with a measurement of its memory, which sets `videos`."""

        def measured(frames: Frames, start: int) -> Tensor:
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            values = encode(frames, start)
            # The allocator counts at the launch, so there is nothing to wait for.
            needed = torch.cuda.max_memory_allocated(self.device) - before
            memory = DeviceMemory.of(self.device)
            self.videos = memory.videos_per_batch(needed // len(frames), num_frames=self.num_frames)
            self._is_final = True
            return values

        return measured


def in_batches(read: Callable[[int, int], Frames], encode: Encode, count: int, size: BatchSize) -> Tensor:
    """Return the results of `encode` for items 0 to `count` - 1 on the CPU.

    Args:
        read: Reads the frames of the items from `start` to `stop` - 1.
        encode: Computes the results for frames on the device, of which the first is item `start`.
        count: Number of items.
        size: Number of items per batch and their device.

    Raises:
        torch.OutOfMemoryError: A single item does not fit.
    """
    # A shard has some 64 MiB of frames, so that a GPU's job can read it whole. Frames of a CPU's batch are
    # used while they are in its cache.
    at_once = count if size.device.type == "cuda" else size.videos
    results: list[Callable[[], Tensor]] = []
    for start in range(0, count, at_once):
        frames = read(start, min(start + at_once, count))
        with _turn:
            results.append(download(_encoded(frames, encode, start, size)))
    return torch.cat([finish() for finish in results])


def _encoded(frames: Frames, encode: Encode, first: int, size: BatchSize) -> Tensor:
    """Return the results for frames on the CPU, on the device of `size`."""
    parts: list[Tensor] = []
    start = 0
    while start < len(frames):
        batch = frames[start : start + size.videos]
        values = size.run(encode, batch, first + start)
        if values is not None:
            parts.append(values)
            start += len(batch)
    return parts[0] if len(parts) == 1 else torch.cat(parts)
