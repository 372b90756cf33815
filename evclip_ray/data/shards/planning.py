"""Which videos go into one shard, neighbours in the manifest, and how many tasks write the shards.

The work of a video is told by what is known without opening it, so that 650,000 rows are planned in
seconds. It is counted in frames: those of the video or of its part, as they are decoded to reach the
sampled ones, and the sampled ones, as these are also converted.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# About ten seconds at 320 x 240: short enough that the last one is not waited for, and that a kill loses
# little.
_SHARD_FRAMES = 20_000
# What a task does at least, a minute or two, if there is so much: starting one costs little beside it, and
# another study need not wait long for its CPU.
TASK_FRAMES = 8 * _SHARD_FRAMES
# Without a header read: videos of data sets have about 1 Mbit and 30 frames a second.
_FRAMES_A_SECOND, _BYTES_A_FRAME = 30, 4_000


def decoding_work(video: dict[str, Any], *, sampled_frames: int) -> float:
    """The frames that are decoded and converted for a row, by its part or the size of its file."""
    start, end = video["start_frame"], video["end_frame"]
    if start is None and end is None:
        start, end = (
            None if seconds is None else seconds * _FRAMES_A_SECOND
            for seconds in (video["start_seconds"], video["end_seconds"])
        )
    decoded = ((video["bytes"] or 0) / _BYTES_A_FRAME if end is None else end) - (start or 0)
    return float(max(decoded, 1.0)) + sampled_frames


def cut(work: Sequence[float] | NDArray[np.float64], *, max_rows: int) -> list[slice]:
    """The rows of each shard: in order, at most `max_rows` of them, and no more work than a shard's.

    A row of more work has a shard of its own. Where a block of `max_rows` rows is cut depends on these rows
    only: one edited video does not change every shard behind it.

    >>> cut([1, 1, 1, 1, 1], max_rows=2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    >>> cut([1, 30_000, 1, 1], max_rows=4)
    [slice(0, 1, None), slice(1, 2, None), slice(2, 4, None)]
    """
    bounds = [0]
    done = 0.0
    for row, frames in enumerate(work):
        if row > bounds[-1] and (row % max_rows == 0 or done + frames > _SHARD_FRAMES):
            bounds.append(row)
            done = 0.0
        done += frames
    return _slices(bounds, len(work))


def count_tasks(work: Sequence[float], *, processes: int) -> int:
    """Tasks that write all shards, each one by one until it has done `TASK_FRAMES` or none is left.

    One more for each process than there are full ones, so that those that begin last are not waited for.

    >>> count_tasks([20_000] * 16, processes=2), count_tasks([20_000], processes=2)
    (4, 1)
    """
    return min(len(work), math.ceil(sum(work) / TASK_FRAMES) + processes)


def _slices(bounds: list[int], stop: int) -> list[slice]:
    return [slice(start, end) for start, end in zip(bounds, [*bounds[1:], stop], strict=True)]
