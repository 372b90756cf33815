"""Frames of a camera or a stream, as they arrive.

A thread reads the source, so that a recogniser that is too slow for it does not fall behind: if the queue is
full, the oldest frame is dropped and counted. `at_rate` turns what remains into a constant rate, in which the
frame that is shown last fills a gap. The times of the windows thus stay those of the source.
"""

import collections
import contextlib
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple, Self

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from evclip_ray.data.video.decode import Fitting
from evclip_ray.data.video.opening import VideoError
from evclip_ray.data.video.reader import DEFAULT_FPS
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.inputs import LiveSource

Pixels = NDArray[np.uint8]

# A playlist of a stream must not open files of this machine.
_PROTOCOLS = "http,https,httpproxy,tcp,tls,udp,rtp,rtsp,srtp,rtmp,rtmps,rtmpt,srt,crypto,hls"
_OPEN_SECONDS, _READ_SECONDS = 15.0, 30.0
_MAX_FPS = 120.0
# Frames of the stored size: 64 of 256 x 455 pixels take 22 MB.
_QUEUE_FRAMES = 64
_CAMERA_HINT = {
    "linux": "check that /dev/video{} exists and that this user may read it",
    "darwin": "allow the terminal to use the camera in the privacy settings",
}


class TimedFrame(NamedTuple):
    """Frame of a source and its time in seconds; 0 is the first frame."""

    seconds: float
    pixels: Pixels


def at_rate(
    frames: Iterable[TimedFrame], fps: float, *, max_seconds: float | None = None
) -> Iterator[Pixels]:
    """Yield frames at a constant rate: at k / fps, the frame that is shown then.

    Frames that arrive up to half a period late are still on time, so that a source with jittering times and
    the mean rate `fps` neither loses nor repeats a frame.

    Args:
        frames: Frames in the order of time.
        fps: Frames per second of the result.
        max_seconds: End of the result; None for the end of the source.
    """
    last: Pixels | None = None
    num_yielded = 0
    for seconds, pixels in frames:
        # All moments that lie before this frame show the one before it.
        while last is not None and (num_yielded + 0.5) / fps <= seconds:
            if max_seconds is not None and num_yielded / fps >= max_seconds:
                return
            yield last
            num_yielded += 1
        last = pixels
    if last is not None and (max_seconds is None or num_yielded / fps < max_seconds):
        yield last


class LiveReader:
    """Open camera or stream whose frames a thread reads; a context manager and an iterator.

    Args:
        source: Camera or stream.
        view: View of the recogniser. Frames are stored at its size.

    Raises:
        VideoError: The source cannot be opened, or has no video.
    """

    def __init__(self, source: LiveSource, view: ViewConfig) -> None:
        self.num_dropped = 0
        self._source = _Stream(source, view) if source.camera is None else _Camera(source, view)
        self.fps = self._source.fps
        self._frames: collections.deque[TimedFrame] = collections.deque()
        self._error: BaseException | None = None
        self._is_ended = False
        self._changed = threading.Condition()
        # A thread that waits for a stalled source must not keep the process from ending.
        self._thread = threading.Thread(target=self._read, name="evclip-ray-live", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end(None)
        # FFmpeg is not interrupted within a read, which ends after its own limit.
        self._thread.join(timeout=1)

    def __iter__(self) -> Iterator[TimedFrame]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frames or self._is_ended)
                if not self._frames:
                    if self._error is not None:
                        raise self._error
                    return
                frame = self._frames.popleft()
            yield frame

    def _read(self) -> None:
        began = time.monotonic()
        try:
            with contextlib.closing(self._source.frames()) as frames:
                for frame in frames:
                    # A recording behind a URL arrives faster than it plays. At that speed most of it would be
                    # dropped.
                    time.sleep(max(began + frame.seconds - time.monotonic(), 0))
                    if self._is_ended:
                        return
                    self._put(frame)
        # Raised where the frames are taken.
        except BaseException as error:
            self._end(error)
        else:
            self._end(None)

    def _put(self, frame: TimedFrame) -> None:
        with self._changed:
            if len(self._frames) == _QUEUE_FRAMES:
                self._frames.popleft()
                self.num_dropped += 1
            self._frames.append(frame)
            self._changed.notify()

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            if not self._is_ended:
                self._is_ended, self._error = True, error
            self._changed.notify()


class _Stream:
    """Stream of a URL, read by FFmpeg."""

    def __init__(self, source: LiveSource, view: ViewConfig) -> None:
        self._shown, self._view = source.shown, view
        options = {"protocol_whitelist": _PROTOCOLS}
        if source.name.lower().startswith("rtsp"):
            # Over UDP, lost packets destroy pictures.
            options["rtsp_transport"] = "tcp"
        try:
            self._container: Any = av.open(
                source.name, options=options, timeout=(_OPEN_SECONDS, _READ_SECONDS), metadata_errors="ignore"
            )
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(source.shown, f"cannot be opened ({error.strerror})") from None
        if not self._container.streams.video:
            self._container.close()
            raise VideoError(source.shown, "has no video stream")
        self._video = self._container.streams.video[0]
        self.fps = _usable_rate(float(self._video.average_rate or self._video.guessed_rate or 0))

    def frames(self) -> Generator[TimedFrame, None, None]:
        """Yield the frames as they arrive. Closes the stream at the end."""
        fitting, first, number = Fitting(self._view), None, 0
        try:
            for frame in self._container.decode(self._video):
                # A stream without times is read at its rate.
                moment = number / self.fps if frame.time is None else frame.time
                first = moment if first is None else first
                yield TimedFrame(max(moment - first, 0.0), fitting(frame))
                number += 1
        except av.error.FFmpegError as error:
            raise VideoError(self._shown, f"the stream broke off ({error.strerror})") from None
        finally:
            self._container.close()


class _Camera:
    """Camera of this machine, read by OpenCV, which numbers the cameras of every system alike."""

    def __init__(self, source: LiveSource, view: ViewConfig) -> None:
        import cv2

        self._name, self._view = source.name, view
        self._capture: Any = cv2.VideoCapture(source.camera or 0)
        if not self._capture.isOpened():
            hint = _CAMERA_HINT.get(sys.platform, "check that it is connected").format(source.camera)
            raise VideoError(source.shown, f"this camera cannot be opened; {hint}")
        self.fps = _usable_rate(self._capture.get(cv2.CAP_PROP_FPS))

    def frames(self) -> Generator[TimedFrame, None, None]:
        """Yield the frames as they arrive. Closes the camera at the end."""
        fitting, began = Fitting(self._view), time.monotonic()
        try:
            while True:
                is_read, picture = self._capture.read()
                if not is_read:
                    raise VideoError(self._name, "the camera stopped; check its cable")
                seconds = time.monotonic() - began
                yield TimedFrame(seconds, fitting(VideoFrame.from_ndarray(picture, format="bgr24")))
        finally:
            self._capture.release()


def _usable_rate(fps: float) -> float:
    """Return a frame rate, `DEFAULT_FPS` for one that is missing or wrong, such as 90,000."""
    return fps if 0 < fps <= _MAX_FPS else DEFAULT_FPS
