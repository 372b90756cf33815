"""Frame indices of a view: pure index arithmetic, no video is opened."""

import numpy as np
from numpy.typing import NDArray

from evclip_ray.data.video.view import ViewConfig

Indices = NDArray[np.int64]


def frame_indices(
    total_frames: int, *, view: ViewConfig, seed: int | None = None, offset: float = 0.5
) -> Indices:
    """Return the frame indices of one view, in non-decreasing order.

    Policy "segments", 10 frames, T = 4: the segments are the frames 0-1, 2-4, 5-6 and 7-9, and the view
    takes the middle frame of each. Policy "window", 60 frames, a window of 32 frames, T = 4: the centred
    window is the frames 14-45, and the view takes every 8th. A video with too few frames repeats some.

    >>> frame_indices(10, view=ViewConfig(num_frames=4)).tolist()
    [1, 3, 6, 8]
    >>> frame_indices(60, view=ViewConfig(num_frames=4, sampling="window")).tolist()
    [14, 22, 30, 38]
    >>> frame_indices(2, view=ViewConfig(num_frames=4)).tolist()
    [0, 0, 1, 1]
    >>> frame_indices(2, view=ViewConfig(num_frames=4, sampling="window")).tolist()
    [0, 1, 1, 1]

    Args:
        total_frames: N, frames of the video or of its part.
        view: Sampling policy.
        seed: Seed of a random view; None gives the deterministic view at `offset`.
        offset: Position of a deterministic view, in [0, 1): the relative position in each segment, or of
            the window between the first and the last possible start.

    Returns:
        (T,) int64 in [0, `total_frames`).

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
    """Return the offsets (v + 1/2) / V of V deterministic views; a single view is in the middle.

    MMAction2's SampleFrames places its dense test views in this way.

    >>> spread_offsets(4)
    [0.125, 0.375, 0.625, 0.875]
    """
    return [(view + 0.5) / num_views for view in range(num_views)]


def _segments(total: int, num_frames: int, draw: float | np.random.Generator) -> Indices:
    """Take one frame of each segment [floor(k N / T), floor((k + 1) N / T)), k = 0 ... T - 1.

    where N: `total`; T: `num_frames` (temporal segment networks, Wang et al., ECCV 2016, section 3.1). With
    N < T some segments are empty; an empty one takes the frame at which it starts.

    >>> _segments(10, 4, 0.0).tolist(), _segments(10, 4, 0.9).tolist()
    ([0, 2, 5, 7], [1, 4, 6, 9])

    Args:
        total: N.
        num_frames: T.
        draw: Relative position in each segment, or a generator that draws one frame uniformly from each.
    """
    # Integer arithmetic gives exact floors: every frame belongs to one segment, and sizes differ by one at
    # most.
    bounds = np.arange(num_frames + 1, dtype=np.int64) * total // num_frames
    starts, widths = bounds[:-1], np.maximum(np.diff(bounds), 1)
    # `draw` is less than 1, so the frame is inside its segment.
    inside = (draw * widths).astype(np.int64) if isinstance(draw, float) else draw.integers(0, widths)
    return starts + inside


def _window(total: int, num_frames: int, window: int, draw: float | np.random.Generator) -> Indices:
    """Take the frames start + k (W // T), k = 0 ... T - 1, with W = min(window, N).

    where N: `total`; T: `num_frames`; 0 <= start <= N - W (EV-CLIP's released code). With N < T that code
    returns fewer than T frames; here the last frame is repeated.

    >>> _window(100, 8, 32, 0.5).tolist()  # start = floor(0.5 * (100 - 32)) = 34, stride 32 // 8 = 4
    [34, 38, 42, 46, 50, 54, 58, 62]

    Args:
        total: N.
        num_frames: T.
        window: Length of the window in frames.
        draw: Relative position of the start, or a generator that draws it uniformly.
    """
    window = min(window, total)
    slack = total - window
    # `integers` excludes its upper bound, so the last possible start needs the 1.
    start = int(draw * slack) if isinstance(draw, float) else int(draw.integers(0, slack + 1))
    stride = max(window // num_frames, 1)
    return np.minimum(start + stride * np.arange(num_frames, dtype=np.int64), total - 1)
