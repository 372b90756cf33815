"""Video file -> uint8 frames of one size, upright, whichever way each frame was reached.

Resizing and the conversion to RGB are one step of swscale: bicubic (its filter widens when shrinking,
so it is antialiased), with exact rounding and bit-exact paths, so that every CPU gives the same bytes.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from evclip_ray.data import torchcodec_reader
from evclip_ray.data.sampling import frame_indices
from evclip_ray.data.video_reader import VideoError, VideoReader
from evclip_ray.data.view import ViewConfig

__all__ = [
    "VideoError", "VideoInfo", "decode_frames", "decode_view", "decode_views", "decoder_name", "probe"
]  # fmt: skip

Frames = NDArray[np.uint8]
Fit = Literal["crop", "stretch"]

_BICUBIC = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
# Times in a manifest are rounded: a frame shown within this of a bound counts as shown at it.
_SECONDS_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a file holds. `width`, `height`: pixels, upright. `rotation`: degrees clockwise to get there."""

    num_frames: int
    fps: float
    width: int
    height: int
    rotation: int
    codec: str
    duration_seconds: float


@functools.cache
def decoder_name() -> str:
    """The decoder and its version, a part of every cache key: two decoders may differ in pixels."""
    if torchcodec_reader.available():
        return torchcodec_reader.name()
    codec = ".".join(str(part) for part in av.library_versions["libavcodec"])
    return f"pyav {av.__version__} / libavcodec {codec}"


def probe(path: Path | str) -> VideoInfo:
    """The facts of a video; its first frame is decoded.

    Raises:
        VideoError: it cannot be opened, or holds no frame that decodes.
    """
    with VideoReader(Path(path)) as video:
        return describe(video)


def describe(video: VideoReader) -> VideoInfo:
    """The facts of an open video; its first frame is decoded."""
    turns: list[int] = []

    def look(frame: VideoFrame) -> Frames:
        turns.append(_quarter_turns(frame))
        return np.empty(0, dtype=np.uint8)

    video.read([0], look)
    sideways = turns[-1] % 2
    return VideoInfo(
        num_frames=len(video.index.seconds),
        fps=video.fps,
        width=video.height if sideways else video.width,
        height=video.width if sideways else video.height,
        rotation=-90 * turns[-1] % 360,
        codec=video.codec,
        duration_seconds=float(video.index.seconds[-1]) + 1 / video.fps,
    )


def decode_view(
    path: Path | str,
    *,
    view: ViewConfig,
    seed: int | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> Frames:
    """(T, H, W, 3) uint8: one view of a video, or of its part from `start_seconds` to `end_seconds`.

    Seconds count from the first frame; a frame is in the part when it is shown in [start, end).
    `seed`: as in `frame_indices`.

    Raises:
        VideoError: it cannot be decoded, or the part holds no frame.
    """
    frames: Frames = decode_views(
        path, view=view, seeds=[seed], start_seconds=start_seconds, end_seconds=end_seconds
    )[0]
    return frames


def decode_views(
    path: Path | str,
    *,
    view: ViewConfig,
    seeds: Sequence[int | None],
    offsets: Sequence[float] | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> Frames:
    """(V, T, H, W, 3) uint8: `decode_view` for each of V seeds, each frame decoded once.

    `offsets`: where each view without a seed lies, as in `frame_indices`; in the middle by default.
    """
    with VideoReader(Path(path)) as video:
        first, last = part_of(video, start_seconds, end_seconds)
        places = zip(seeds, offsets or [0.5] * len(seeds), strict=True)
        indices = first + np.stack(
            [frame_indices(last - first, view=view, seed=seed, offset=offset) for seed, offset in places]
        )
        return _read(video, indices, height=view.height, width=view.width, fit=view.fit)


def decode_frames(
    path: Path | str, indices: Sequence[int], *, height: int, width: int, fit: Fit = "crop"
) -> Frames:
    """(len(indices), height, width, 3) uint8: these frames, in this order; repeats are allowed.

    An index beyond the last frame gives the last frame.

    Raises:
        ValueError: a negative index.
        VideoError: it cannot be decoded.
    """
    wanted = np.asarray(indices, dtype=np.int64)
    if (wanted < 0).any():
        raise ValueError(f"frame indices must be 0 or more, got {wanted.min()}")
    with VideoReader(Path(path)) as video:
        wanted = np.minimum(wanted, len(video.index.seconds) - 1)
        return _read(video, wanted, height=height, width=width, fit=fit)


def part_of(video: VideoReader, start: float | None, end: float | None) -> tuple[int, int]:
    """The frames [first, last) that are shown from `start` to `end` seconds.

    Raises:
        VideoError: there are none.
    """
    seconds = video.index.seconds + _SECONDS_TOLERANCE
    first = 0 if start is None else int(np.searchsorted(seconds, start))
    last = len(seconds) if end is None else int(np.searchsorted(seconds, end))
    if first >= last:
        shown = f"it runs from 0 to {seconds[-1]:.2f} s"
        raise VideoError(video.path, f"no frame is shown from {start} to {end} s; {shown}")
    return first, last


def _read(video: VideoReader, indices: NDArray[np.int64], *, height: int, width: int, fit: Fit) -> Frames:
    fitting = Fitting(height, width, fit)
    read = torchcodec_reader.read if torchcodec_reader.available() else VideoReader.read
    found = read(video, indices.ravel().tolist(), fitting)
    frames = np.stack([found[index] for index in indices.ravel().tolist()])
    return frames.reshape(*indices.shape, height, width, 3)


class Fitting:
    """A decoded frame -> (height, width, 3) uint8 RGB, upright; keeps its resizer between frames."""

    def __init__(self, height: int, width: int, fit: Fit) -> None:
        self.height, self.width, self.fit = height, width, fit
        self._resizer = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> Frames:
        turns = _quarter_turns(frame)
        upright = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
        height, width = self._resized(*upright)
        coded_height, coded_width = (width, height) if turns % 2 else (height, width)
        rgb = self._resizer.reformat(
            frame, width=coded_width, height=coded_height, format="rgb24", interpolation=_BICUBIC, threads=1
        )
        image = np.rot90(rgb.to_ndarray(), turns)
        top, left = (height - self.height) // 2, (width - self.width) // 2
        return np.ascontiguousarray(image[top : top + self.height, left : left + self.width])

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) before the crop: for "crop", the smallest of the same aspect that covers."""
        if self.fit == "stretch":
            return self.height, self.width
        scale = max(self.height / height, self.width / width)
        return max(round(height * scale), self.height), max(round(width * scale), self.width)


def _quarter_turns(frame: VideoFrame) -> int:
    """Counterclockwise quarter turns, 0 to 3, that make the frame upright."""
    return round(frame.rotation / 90) % 4
