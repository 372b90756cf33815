"""Copy of a video with the mask as a heat map and the class of each moment as a label.

The copy has the size, the frame times and the upright orientation of the video, without its sound. An odd
width or height loses one pixel, because H.264 stores colours for blocks of 2 x 2 pixels. The codec is H.264,
or MPEG-4 part 2 where PyAV was built without an encoder for H.264.
"""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from numpy.typing import NDArray

from evclip_ray.artifacts import replacing
from evclip_ray.data import storage
from evclip_ray.data.video.decode import Fitting, VideoInfo, describe, open_video
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.drawing import Pixels, Square, blend, heat_map, seen_square, strip
from evclip_ray.deploy.predictions import WindowPrediction
from evclip_ray.deploy.timeline import Segment, segment_at

# MPEG-4 part 2 stores at most 65,535 ticks per second. The common rates are exact at 60,000: 24, 25, 30,
# 30000/1001 and 60000/1001 frames per second.
_TICKS = 60_000
_SQUARE_COLOUR = (255, 255, 255)
# Share of a label's background that the picture shows through.
_SEE_THROUGH = 0.35


def write_overlay(
    video: str,
    target: Path,
    *,
    view: ViewConfig,
    segments: Sequence[Segment],
    windows: Iterable[WindowPrediction],
    fps: float | None = None,
) -> None:
    """Write the overlay of a video, as MP4 and atomically. Frames are read and written one by one.

    Args:
        video: Path or URI.
        target: File of the overlay.
        view: View of the recogniser.
        segments: Timeline of the video. The label of a frame is the class of its segment.
        windows: Windows of the video with their masks, in order of time. They are taken when they are needed.
            Without masks, only labels are drawn.
        fps: Frames per second of a folder of frames.

    Raises:
        VideoError: A frame of the video does not decode.
        OSError: The file cannot be written.
    """
    with open_video(storage.place(video), fps=fps) as opened:
        info, seconds = describe(opened), opened.index.seconds
        # At least 2 x 2 pixels, for a video that is one pixel wide.
        size = (max(info.height // 2 * 2, 2), max(info.width // 2 * 2, 2))
        painter = _Painter(_Masks(iter(windows)), segments, seen_square(view, *size, info.pixel_aspect), size)
        fitting = Fitting(ViewConfig(fit="stretch"))
        # The size of a view has a minimum of 16 pixels.
        fitting.size = size
        with replacing(target) as temporary, av.open(str(temporary), "w", format="mp4") as container:
            stream = _open_stream(container, info, size)
            for index, frame in opened.stream(range(len(seconds)), fitting):
                shown = float(seconds[index])
                encoded = VideoFrame.from_ndarray(painter.paint(frame, shown), format="rgb24")
                encoded.pts, encoded.time_base = round(shown * _TICKS), Fraction(1, _TICKS)
                container.mux(stream.encode(encoded))
            container.mux(stream.encode(None))


def _open_stream(container: Any, info: VideoInfo, size: tuple[int, int]) -> Any:
    rate = Fraction(info.fps).limit_denominator(1001)
    try:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
    except ValueError:  # PyAV was built without this encoder.
        stream = container.add_stream("mpeg4", rate=rate)
        # A fifth of a bit per pixel shows no blocks.
        stream.bit_rate = int(0.2 * size[0] * size[1] * info.fps)
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base = Fraction(1, _TICKS)
    context.sample_aspect_ratio = info.pixel_aspect
    # The matrix of the conversion from RGB. Without it, players assume another one for large pictures.
    context.colorspace = Colorspace.SMPTE170M
    return stream


class _Masks:
    """Masks of the windows of one video, for moments in increasing order.

    Args:
        windows: Windows in order of time.
    """

    def __init__(self, windows: Iterator[WindowPrediction]) -> None:
        self._windows = windows
        self._current, self._next = next(windows, None), next(windows, None)

    def at(self, seconds: float) -> NDArray[np.float32] | None:
        """Return the mask of the window whose middle is nearest to a moment; None if that is in a gap."""
        while self._next is not None and self._current is not None:
            is_nearer = _distance(self._next, seconds) <= _distance(self._current, seconds)
            # Of a method without masks, no further window needs to be computed.
            if self._current.mask is None or not is_nearer:
                break
            self._current, self._next = self._next, next(self._windows, None)
        window = self._current
        is_covered = window is not None and window.start_seconds <= seconds < window.end_seconds
        return window.mask if window is not None and is_covered else None


def _distance(window: WindowPrediction, seconds: float) -> float:
    return abs((window.start_seconds + window.end_seconds) / 2 - seconds)


class _Painter:
    """Draws on the frames of one video. Frames must come in the order of time.

    Args:
        masks: Masks of the video.
        segments: Timeline of the video.
        square: Part of the frames that has the mask.
        size: Height and width of the frames in pixels.
    """

    def __init__(
        self, masks: _Masks, segments: Sequence[Segment], square: Square, size: tuple[int, int]
    ) -> None:
        self._masks, self._segments, self._square, self._size = masks, segments, square, size
        self._heat: tuple[NDArray[np.float32], Pixels] | None = None
        self._label: tuple[Segment, Pixels] | None = None
        self._font_size = min(max(size[0] // 16, 10), 48)

    def paint(self, picture: Pixels, seconds: float) -> Pixels:
        """Return a frame with heat map and label."""
        picture = picture.copy()
        mask = self._masks.at(seconds)
        if mask is not None:
            self._paint_mask(picture, mask)
        segment = segment_at(self._segments, seconds)
        if segment is not None:
            self._paint_label(picture, segment)
        return picture

    def _paint_mask(self, picture: Pixels, mask: NDArray[np.float32]) -> None:
        top, left, height, width = self._square
        # Drawn once for all frames of a window.
        if self._heat is None or self._heat[0] is not mask:
            self._heat = (mask, heat_map(mask, height, width))
        part = picture[top : top + height, left : left + width]
        part[:] = blend(part, self._heat[1])
        corner = (left + width - 1, top + height - 1)
        cv2.rectangle(picture, (left, top), corner, _SQUARE_COLOUR, max(self._size[0] // 360, 1))

    def _paint_label(self, picture: Pixels, segment: Segment) -> None:
        if self._label is None or self._label[0] is not segment:
            end = f"  {100 * segment.probability:.0f} %"
            text = segment.name or "unknown"
            self._label = (segment, strip(text, end, width=self._size[1], size=self._font_size))
        letters = self._label[1][: self._size[0]]
        part = picture[-len(letters) :]
        dark = cv2.addWeighted(part, _SEE_THROUGH, letters, 0, 0)
        part[:] = np.maximum(dark, letters)
