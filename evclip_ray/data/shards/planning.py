"""Assignment of videos to shards, and of shards to tasks.

The work of a video is estimated without opening it, so that 650,000 rows are planned in seconds. The unit is
one frame. It counts the frames of the video or its part, which are decoded to reach the sampled ones, plus
the sampled frames, which are also converted.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# About ten seconds at 320 x 240: the last shard delays the end little, and a kill loses little.
_SHARD_FRAMES = 20_000
# Minimum work of a task, one or two minutes: small start-up overhead, and another study soon gets the CPU.
TASK_FRAMES = 8 * _SHARD_FRAMES
# Typical of data sets (about 1 Mbit per second at 30 frames per second), as no header is read.
_FRAMES_PER_SECOND, _BYTES_PER_FRAME = 30, 4_000


def decoding_work(video: dict[str, Any], *, sampled_frames: int) -> float:
    """Estimate the frames that are decoded and converted for a manifest row.

    >>> part = {"start_frame": None, "end_frame": None, "start_seconds": 10.0, "end_seconds": 12.0}
    >>> decoding_work({**part, "bytes": 400_000}, sampled_frames=8)  # 2 s at 30 frames per second, plus 8
    68.0
    >>> whole = dict.fromkeys(part)
    >>> decoding_work({**whole, "bytes": 400_000}, sampled_frames=8)  # 400 kB at 4 kB per frame, plus 8
    108.0

    Args:
        video: Row with its part's bounds and the size of its file.
        sampled_frames: Frames that are converted, of all views together.
    """
    start, end = video["start_frame"], video["end_frame"]
    if start is None and end is None:
        start, end = (
            None if seconds is None else seconds * _FRAMES_PER_SECOND
            for seconds in (video["start_seconds"], video["end_seconds"])
        )
    decoded = ((video["bytes"] or 0) / _BYTES_PER_FRAME if end is None else end) - (start or 0)
    return float(max(decoded, 1.0)) + sampled_frames


def cut(work: Sequence[float] | NDArray[np.float64], *, max_rows: int) -> list[slice]:
    """Cut consecutive rows into shards of at most `max_rows` rows and at most 20,000 frames of work.

    A row with more work gets a shard of its own. The cuts within a block of `max_rows` rows depend on these
    rows only, so one edited video does not change all later shards.

    >>> cut([1, 1, 1, 1, 1], max_rows=2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    >>> cut([1, 30_000, 1, 1], max_rows=4)
    [slice(0, 1, None), slice(1, 2, None), slice(2, 4, None)]

    Args:
        work: Work per row, in frames.
        max_rows: Largest number of rows per shard.
    """
    bounds = [0]
    shard_work = 0.0
    for row, frames in enumerate(work):
        # The first row of a shard always belongs to it, even if its work alone exceeds the limit. A cut at
        # each multiple of `max_rows` makes the cuts of every block independent of the earlier blocks.
        if row > bounds[-1] and (row % max_rows == 0 or shard_work + frames > _SHARD_FRAMES):
            bounds.append(row)
            shard_work = 0.0
        shard_work += frames
    return [slice(start, stop) for start, stop in zip(bounds, [*bounds[1:], len(work)], strict=True)]


def count_tasks(work: Sequence[float], *, processes: int) -> int:
    """Return the number of tasks; each writes shards until it has done `TASK_FRAMES` or none is left.

    There is one task more per process than full tasks, so that the tasks that start last end early.

    >>> count_tasks([20_000] * 16, processes=2), count_tasks([20_000], processes=2)
    (4, 1)

    Args:
        work: Work per shard, in frames.
        processes: Number of processes that run tasks at the same time.
    """
    return min(len(work), math.ceil(sum(work) / TASK_FRAMES) + processes)
