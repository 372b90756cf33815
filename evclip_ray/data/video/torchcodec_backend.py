"""Reading by torchcodec, where a view asks for it.

It is only asked for frames of files whose index the packets tell: there, its frame k is ours. Its pixels
are resized after their conversion to RGB, not with it, so they differ a little from PyAV's.
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
    """The decoder and its version.

    Raises:
        ValueError: it does not import; without its FFmpeg libraries it cannot.
    """
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"view.decoder=torchcodec, but torchcodec does not import ({reason}): pip install"
            " 'evclip-ray[torchcodec]' and FFmpeg's shared libraries, or set view.decoder=pyav"
        ) from None
    return f"torchcodec {importlib.metadata.version('torchcodec')}"


def read(video: VideoReader, indices: Sequence[int], convert: Convert) -> dict[int, NDArray[np.uint8]]:
    """As `VideoReader.read`, by one torchcodec thread; it hands out upright frames."""
    if video.index.times is None:
        return video.read(indices, convert)
    from torchcodec.decoders import VideoDecoder

    wanted = sorted(set(indices))
    source: Any = storage.open_binary(video.path) if isinstance(video.path, str) else str(video.path)
    try:
        decoder = VideoDecoder(
            source, stream_index=video.stream_index, dimension_order="NHWC", num_ffmpeg_threads=1
        )
        pixels = decoder.get_frames_at(wanted).data.numpy()
    except (RuntimeError, IndexError) as error:
        # PyAV knows a tail that is cut off, which is clamped, from a hole, which is refused.
        logger.info("%s: torchcodec cannot (%s), PyAV tries", video.path, str(error).splitlines()[0])
        return video.read(indices, convert)
    finally:
        if not isinstance(source, str):
            source.close()
    frames = (av.VideoFrame.from_ndarray(rgb, format="rgb24") for rgb in pixels)
    return {index: convert(frame) for index, frame in zip(wanted, frames, strict=True)}
