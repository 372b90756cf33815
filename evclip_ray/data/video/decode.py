"""Decoding of video files and frame folders to upright uint8 frames of one size."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

import av
import numpy as np
import PIL
from numpy.typing import NDArray

from evclip_ray.data import storage
from evclip_ray.data.storage import Place
from evclip_ray.data.video import torchcodec_backend
from evclip_ray.data.video.fitting import Fitting, Frames
from evclip_ray.data.video.frame_folder import FrameFolder
from evclip_ray.data.video.opening import one_video
from evclip_ray.data.video.reader import VideoError, VideoReader, WrongIndexError
from evclip_ray.data.video.sampling import frame_indices
from evclip_ray.data.video.view import Decoder, Fit, ViewConfig
from evclip_ray.formatting import counted

__all__ = [
    "Fitting",
    "Part",
    "VideoError",
    "VideoInfo",
    "decode_frames",
    "decode_view",
    "decode_views",
    "decoder_name",
    "open_video",
    "probe",
    "read_frames",
]

Video = VideoReader | FrameFolder


class Part(TypedDict, total=False):
    """Part of a video, from the columns of a manifest row; the whole video by default.

    The first frame is frame 0 and is shown at 0 seconds. The end is exclusive. `fps`: frames per second of
    a frame folder, required for bounds in seconds; a file has its own rate.
    """

    start_seconds: float | None
    end_seconds: float | None
    start_frame: int | None
    end_frame: int | None
    fps: float | None


# Times in manifests are rounded, so a frame this close to a bound counts as shown at it.
_SECONDS_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Facts of a video.

    Attributes:
        num_frames: Number of frames.
        fps: Mean frames per second.
        width: Upright width in pixels.
        height: Upright height in pixels.
        rotation: Clockwise degrees that make the coded picture upright.
        codec: Name of the codec, such as "h264".
        duration_seconds: End of the last frame.
        mirrored: Whether left and right are exchanged after the rotation.
        pixel_aspect: Width of an upright pixel by its height; 1 if pixels are square.
    """

    num_frames: int
    fps: float
    width: int
    height: int
    rotation: int
    codec: str
    duration_seconds: float
    mirrored: bool = False
    pixel_aspect: Fraction = Fraction(1)

    @property
    def has_other_shape(self) -> bool:
        """Whether players show another shape."""
        return has_other_shape(self.pixel_aspect)


def has_other_shape(pixel_aspect: Fraction) -> bool:
    """Return whether players show another shape: by more than 1 %, which is how far sizes are rounded."""
    return abs(pixel_aspect - 1) > Fraction(1, 100)


@functools.cache
def decoder_name(decoder: Decoder = "pyav") -> str:
    """Return a decoder and its version, part of every cache key because decoders may differ in pixels.

    Raises:
        ValueError: the decoder is torchcodec and cannot be imported.
    """
    codec = ".".join(str(part) for part in av.library_versions["libavcodec"])
    # PyAV reads what torchcodec cannot, and Pillow reads the images of frame folders.
    others = f"pyav {av.__version__} / libavcodec {codec} / pillow {PIL.__version__}"
    return others if decoder == "pyav" else f"{torchcodec_backend.name()} / {others}"


def part_in(row: dict[str, Any]) -> Part:
    """Return the part of the video that a manifest row refers to."""
    return cast(Part, {name: row[name] for name in Part.__annotations__})


@contextlib.contextmanager
def open_video(
    path: Place,
    *,
    fps: float | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> Iterator[Video]:
    """Open a file or a folder of frames for the time of the block, whose errors are those of this video.

    Args:
        path: Path or URI.
        fps: Frames per second of a frame folder.
        start_seconds: As in `VideoReader`.
        end_seconds: As in `VideoReader`.

    Raises:
        VideoError, StorageError: see `one_video`.
    """
    with one_video(path), _opened(storage.place(path), fps, start_seconds, end_seconds) as video:
        yield video


def _opened(where: Place, fps: float | None, start_seconds: float | None, end_seconds: float | None) -> Video:
    # Object storage has no folders: a name that is not an object may be a prefix of objects.
    if isinstance(where, Path) and where.is_dir():
        return FrameFolder(where, fps=fps)
    try:
        return VideoReader(where, start_seconds=start_seconds, end_seconds=end_seconds)
    except VideoError:
        if isinstance(where, str) and storage.is_folder(where):
            return FrameFolder(where, fps=fps)
        raise


def probe(path: Place, *, fps: float | None = None) -> VideoInfo:
    """Return the facts of a video; its first frame is decoded.

    Raises:
        VideoError: the video cannot be opened, or no frame decodes.
    """
    with open_video(path, fps=fps) as video:
        return describe(video)


def describe(video: Video) -> VideoInfo:
    """Return the facts of an open video; its first frame is decoded."""
    orientation = video.orientation()
    # The container has the coded size and the shape of coded pixels.
    sideways = orientation.is_sideways
    return VideoInfo(
        num_frames=len(video.index.seconds),
        fps=video.fps,
        width=video.height if sideways else video.width,
        height=video.width if sideways else video.height,
        rotation=-90 * orientation.turns % 360,
        codec=video.codec,
        duration_seconds=float(video.index.seconds[-1]) + 1 / video.fps,
        mirrored=orientation.mirrored,
        pixel_aspect=1 / video.pixel_aspect if sideways else video.pixel_aspect,
    )


def decode_view(path: Place, *, view: ViewConfig, seed: int | None = None, **part: Unpack[Part]) -> Frames:
    """Decode one view of a video to (T, H, W, 3) uint8, with H and W as in `ViewConfig.size_of`.

    Args:
        path: Path or URI.
        view: Sampling and size.
        seed: As in `frame_indices`.
        **part: Part of the video; see `Part`.

    Raises:
        VideoError: the video does not decode, or the part contains no frame.
    """
    frames: Frames = decode_views(path, view=view, seeds=[seed], **part)[0]
    return frames


def decode_views(
    path: Place,
    *,
    view: ViewConfig,
    seeds: Sequence[int | None],
    offsets: Sequence[float] | None = None,
    on_open: Callable[[Video], None] | None = None,
    **part: Unpack[Part],
) -> Frames:
    """Decode V views of a video to (V, T, H, W, 3) uint8; each frame is decoded once.

    Args:
        path: Path or URI.
        view: Sampling and size.
        seeds: V seeds, as in `frame_indices`.
        offsets: V offsets of the views without a seed, as in `frame_indices`; 0.5 by default.
        on_open: Called with the open video, before its frames are read.
        **part: Part of the video; see `Part`.

    Raises:
        VideoError: the video does not decode, or the part contains no frame.
    """
    draws = list(zip(seeds, offsets or [0.5] * len(seeds), strict=True))
    # Bounds in frames, and torchcodec's own numbering, count from the first frame of the whole file.
    windowed = view.decoder == "pyav" and part.get("start_frame") is None and part.get("end_frame") is None
    if windowed:
        with contextlib.suppress(WrongIndexError):
            return _views(path, view, draws, part, on_open, windowed=True)
    # Also reached if the decoder contradicted the packets around the part: then the whole file is indexed.
    return _views(path, view, draws, part, on_open, windowed=False)


def _views(
    path: Place,
    view: ViewConfig,
    draws: list[tuple[int | None, float]],
    part: Part,
    on_open: Callable[[Video], None] | None,
    *,
    windowed: bool,
) -> Frames:
    start, end = (part.get("start_seconds"), part.get("end_seconds")) if windowed else (None, None)
    with open_video(path, fps=part.get("fps"), start_seconds=start, end_seconds=end) as video:
        if on_open is not None:
            on_open(video)
        first, last = part_of(video, part)
        indices = first + np.stack(
            [frame_indices(last - first, view=view, seed=seed, offset=offset) for seed, offset in draws]
        )
        return read_frames(video, indices, view)


def decode_frames(
    path: Place,
    indices: Sequence[int],
    *,
    height: int,
    width: int,
    fit: Fit = "crop",
    decoder: Decoder = "pyav",
) -> Frames:
    """Decode frames by index to (len(indices), height, width, 3) uint8, in the given order.

    Args:
        path: Path or URI.
        indices: Frame numbers from 0; repeats are allowed, and numbers beyond the end give the last frame.
        height: Height of the result in pixels.
        width: Width of the result in pixels.
        fit: As in `ViewConfig`.
        decoder: As in `ViewConfig`.

    Raises:
        ValueError: an index is negative.
        VideoError: the video does not decode.
    """
    wanted = np.asarray(indices, dtype=np.int64)
    if (wanted < 0).any():
        raise ValueError(f"frame indices must be 0 or more, got {wanted.min()}")
    with open_video(path) as video:
        wanted = np.minimum(wanted, len(video.index.seconds) - 1)
        return read_frames(video, wanted, ViewConfig(height=height, width=width, fit=fit, decoder=decoder))


def part_of(video: Video, part: Part) -> tuple[int, int]:
    """Return the frames [first, last) of a part as indices into `video.index`.

    Raises:
        VideoError: the part is empty, or it is in seconds and the frame folder has no rate.
    """
    count, end_frame = len(video.index.seconds), part.get("end_frame")
    first, last = part.get("start_frame") or 0, count if end_frame is None else min(end_frame, count)
    if first >= last:
        raise VideoError(
            video.path, f"no frame is from {first} to {end_frame}; the video has {counted(count, 'frame')}"
        )
    start, end = part.get("start_seconds"), part.get("end_seconds")
    if start is None and end is None:
        return first, last
    if not video.timed:
        raise VideoError(
            video.path, "a folder of frames has no times; give its frames per second in the column fps"
        )
    seconds = video.index.seconds + _SECONDS_TOLERANCE
    # The first frame at or after a bound: the start of a part is inclusive and its end exclusive.
    first = 0 if start is None else int(np.searchsorted(seconds, start))
    last = len(seconds) if end is None else int(np.searchsorted(seconds, end))
    if first >= last:
        shown = f"the video runs from 0 to {seconds[-1]:.2f} s"
        if first < len(seconds):
            shown = "one frame is shown for longer than that"
        raise VideoError(video.path, f"no frame is shown from {start} to {end} s; {shown}")
    return first, last


def read_frames(video: Video, indices: NDArray[np.int64], view: ViewConfig) -> Frames:
    """Return frames of an open video, (*indices.shape, H, W, 3) uint8, with H and W as in `size_of`.

    Args:
        video: Open video.
        indices: Indices into `video.index`.
        view: Size and decoder.

    Raises:
        VideoError: a requested frame does not decode.
    """
    fitting, wanted = Fitting(view, pixel_aspect=video.pixel_aspect), indices.ravel().tolist()
    # Frame folders are decoded by Pillow with either decoder.
    if view.decoder == "torchcodec" and isinstance(video, VideoReader) and torchcodec_backend.suits(video):
        images = torchcodec_backend.read(video, wanted, fitting)
    else:
        images = video.read(wanted, fitting)
    # An index that several views share was decoded and converted once.
    frames = np.stack([images[index] for index in wanted])
    return frames.reshape(*indices.shape, *frames.shape[1:])
