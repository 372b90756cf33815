"""Which frames a view takes: pure index arithmetic, no video is opened."""

import numpy as np
from numpy.typing import NDArray

from evclip_ray.data.video.view import ViewConfig

Indices = NDArray[np.int64]


def frame_indices(
    total_frames: int, *, view: ViewConfig, seed: int | None = None, offset: float = 0.5
) -> Indices:
    """(T,) int64 frame indices of one view, non-decreasing, in [0, `total_frames`).

    Without a seed the view is a deterministic one of evaluation, and `offset`, in [0, 1), is where it
    lies: how far into each segment, or how far the window has moved over the room that it has. A seed
    draws one at random. A video with too few frames repeats some.

    >>> frame_indices(10, view=ViewConfig(num_frames=4)).tolist()  # segments 0-1, 2-4, 5-6, 7-9
    [1, 3, 6, 8]
    >>> frame_indices(60, view=ViewConfig(num_frames=4, sampling="window")).tolist()  # frames 14-45
    [14, 22, 30, 38]

    Raises:
        ValueError: `total_frames` is less than 1, or `offset` is out of range.
    """
    if total_frames < 1:
        raise ValueError(f"a view needs a video of at least 1 frame, got {total_frames}")
    if not 0 <= offset < 1:
        raise ValueError(f"offset must be 0 or more and less than 1, got {offset}")
    draw = offset if seed is None else np.random.default_rng(seed)
    if view.sampling == "window":
        return _window(total_frames, view.num_frames, view.window_frames, draw)
    return _segments(total_frames, view.num_frames, draw)


def spread_offsets(num_views: int) -> list[float]:
    """Where V deterministic views of one video lie: (v + 1/2) / V, which for one view is the middle.

    The dense test views of MMAction2's SampleFrames lie so.

    >>> spread_offsets(4)
    [0.125, 0.375, 0.625, 0.875]
    """
    return [(view + 0.5) / num_views for view in range(num_views)]


def _segments(total: int, num_frames: int, draw: float | np.random.Generator) -> Indices:
    """One frame of each segment [k N / T, (k + 1) N / T): the one at `draw` of its length, or a uniform draw.

    Temporal segment networks (Wang et al., ECCV 2016, section 3.1). With N < T a segment may be empty
    and takes the frame that it starts at.
    """
    bounds = np.arange(num_frames + 1, dtype=np.int64) * total // num_frames
    starts, widths = bounds[:-1], np.maximum(np.diff(bounds), 1)
    inside = (draw * widths).astype(np.int64) if isinstance(draw, float) else draw.integers(0, widths)
    return starts + inside


def _window(total: int, num_frames: int, window: int, draw: float | np.random.Generator) -> Indices:
    """start + k (W // T) with W = min(window, N): the window at `draw` of its room, or anywhere.

    EV-CLIP's released code; where N < T it gives too few frames, here the last one is repeated.
    """
    window = min(window, total)
    slack = total - window
    start = int(draw * slack) if isinstance(draw, float) else int(draw.integers(0, slack + 1))
    stride = max(window // num_frames, 1)
    return np.minimum(start + stride * np.arange(num_frames, dtype=np.int64), total - 1)
