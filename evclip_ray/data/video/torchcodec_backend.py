"""Decoding with torchcodec, for views that select it.

Only files whose packets give an exact index are read with it, because there its frame k is ours. Its frames
are resized after the conversion to RGB, not in the same step, so they differ slightly from PyAV's.
"""

import importlib.metadata
import logging
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from evclip_ray.data import storage
from evclip_ray.data.video.reader import Convert, VideoReader

logger = logging.getLogger(__name__)


def name() -> str:
    """Return "torchcodec" and its version.

    Raises:
        ValueError: torchcodec cannot be imported; it needs FFmpeg's shared libraries.
    """
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"view.decoder=torchcodec, but torchcodec does not import ({reason}): pip install"
            " 'evclip-ray[torchcodec]' and install FFmpeg's shared libraries, or set view.decoder=pyav"
        ) from None
    return f"torchcodec {importlib.metadata.version('torchcodec')}"


def suits(video: VideoReader) -> bool:
    """Return whether torchcodec reads the right frames of a file.

    It trusts the flags of key frames, does not mirror, and its frames lose the shape of their pixels.
    """
    return video.seekable and video.pixel_aspect == 1 and not video.orientation().mirrored


def read(video: VideoReader, indices: Sequence[int], convert: Convert) -> dict[int, NDArray[np.uint8]]:
    """Read frames as `VideoReader.read` does, in one torchcodec thread; torchcodec returns upright frames.

    Args:
        video: A file that `suits`.
        indices: As in `VideoReader.read`.
        convert: As in `VideoReader.read`.
    """
    from torchcodec.decoders import VideoDecoder

    wanted = sorted(set(indices))
    source: Any = storage.open_binary(video.path) if isinstance(video.path, str) else str(video.path)
    try:
        # One thread, as with PyAV: Ray decodes as many videos in parallel as there are cores.
        decoder = VideoDecoder(
            source, stream_index=video.stream_index, dimension_order="NHWC", num_ffmpeg_threads=1
        )
        pixels = decoder.get_frames_at(wanted).data.numpy()
    except (RuntimeError, IndexError) as error:
        # PyAV distinguishes a truncated tail, which is clamped, from a hole, which is refused.
        logger.info("%s: torchcodec failed (%s), trying PyAV", video.path, str(error).splitlines()[0])
        return video.read(indices, convert)
    finally:
        if not isinstance(source, str):
            source.close()
    # Back to PyAV's frames, so that `convert` is the same for both decoders.
    frames = (av.VideoFrame.from_ndarray(rgb, format="rgb24") for rgb in pixels)
    return {index: convert(frame) for index, frame in zip(wanted, frames, strict=True)}
