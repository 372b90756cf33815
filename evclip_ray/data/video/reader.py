"""Exact access to the frames of a video file: frame k is the k-th frame of a full decode.

The packets determine which frames exist, when each is shown and where decoding can start (`packet_index`).
Reading seeks where that saves work and decodes up to the last requested frame. Some packets are not
reliable: AVI stores no presentation times, and some streams hold invisible frames. The frames of such files
are counted by decoding them and are read in sequence. So are those of a file in which a seek fails.
"""

import collections
import contextlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from evclip_ray.data.storage import STORAGE_IS_LOST, Place
from evclip_ray.data.video.opening import VideoError, open_source, open_stream
from evclip_ray.data.video.orientation import Orientation, orientation_of
from evclip_ray.data.video.packet_index import FrameIndex, can_seek, index_of_all, index_of_part

__all__ = ["DEFAULT_FPS", "Convert", "VideoError", "VideoReader", "WrongIndexError"]

Convert = Callable[[VideoFrame], NDArray[np.uint8]]

# H.264 marks the frames that no other frame refers to, so their decoding can be skipped.
_CODECS_THAT_MARK_REFERENCES = ("h264",)
# Frames that were decoded for counting are kept for reading, up to this size.
_KEPT_BYTES = 64 * 2**20
# A seek discards the decoder's state; decoding up to this many more frames is cheaper.
_SEEK_SAVES = 4
# For files and frame folders without a frame rate.
DEFAULT_FPS = 25.0


class WrongIndexError(Exception):
    """The decoder did not return a frame that the packets announced."""


# Some files cannot seek, and some decoders report an error at a false key frame.
_INDEX_IS_WRONG = (WrongIndexError, VideoError, av.error.FFmpegError)


class VideoReader:
    """Open video file; a context manager.

    `index` holds the frames of the file. If `windowed`, it holds only a run of frames that contains the
    part: its frame k is then not frame k of the file, but `index.seconds` still count from the file's
    first frame.

    Args:
        path: Path or URI.
        start_seconds: Start of the part that will be read; None for the beginning.
        end_seconds: End of the part; None for the end.

    Raises:
        VideoError: the file does not exist, has no video stream, or no frame decodes.
        StorageError: the storage cannot be read.
    """

    timed = True

    def __init__(
        self, path: Place, *, start_seconds: float | None = None, end_seconds: float | None = None
    ) -> None:
        self.path, self._object = path, open_source(path)
        self._container: Any = None
        self._kept: list[VideoFrame] = []
        try:
            self._container, self._stream = open_stream(path, self._object)
            part = None
            if start_seconds is not None or end_seconds is not None:
                part = index_of_part(self._container, self._stream, start_seconds, end_seconds)
                self._rewind()
            self.windowed = part is not None
            self.index = part or index_of_all(self._container, self._stream) or self._index_by_decoding()
        # If the constructor fails, also by Ctrl-C, there is no object whose `__exit__` could close the file.
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for opened in (self._container, self._object):
            if opened is not None:
                opened.close()

    @property
    def fps(self) -> float:
        """Mean frames per second; `DEFAULT_FPS` if the file has no rate."""
        return float(self._stream.average_rate or self._stream.guessed_rate or DEFAULT_FPS)

    @property
    def codec(self) -> str:
        """The codec's name, e.g. "h264"."""
        return str(self._stream.codec_context.name)

    @property
    def width(self) -> int:
        """Coded width in pixels, before rotation."""
        return int(self._stream.codec_context.width)

    @property
    def height(self) -> int:
        """Coded height in pixels, before rotation."""
        return int(self._stream.codec_context.height)

    @property
    def stream_index(self) -> int:
        """Index of the video stream that is read."""
        return int(self._stream.index)

    @property
    def seekable(self) -> bool:
        """Whether frames after a seek equal those of a full decode."""
        return not self.is_decoded and can_seek(self._stream)

    @property
    def is_decoded(self) -> bool:
        """Whether every frame was decoded to make the index, because packets do not determine it."""
        return self.index.times is None

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a pixel by its height; 1 if the file does not give it."""
        aspect = Fraction(self._stream.sample_aspect_ratio or 1)
        return aspect if aspect > 0 else Fraction(1)

    @property
    def declared_seconds(self) -> float | None:
        """Duration of the video stream by the header; None if the header has none."""
        if self._stream.duration is not None:
            return float(self._stream.duration * self._stream.time_base)
        # The duration of a container is that of its longest stream, which may be the sound.
        if self._container.duration is not None and len(self._container.streams) == 1:
            return float(self._container.duration / av.time_base)
        return None

    def orientation(self) -> Orientation:
        """Return what makes the first frame upright; only a decoded frame carries it."""
        found: list[Orientation] = []

        def read_orientation(frame: VideoFrame) -> NDArray[np.uint8]:
            found.append(orientation_of(frame))
            return np.empty(0, dtype=np.uint8)

        self.read([0], read_orientation)
        return found[-1]

    def decode_all(
        self, indices: Sequence[int], convert: Convert
    ) -> tuple[int, dict[int, NDArray[np.uint8]]]:
        """Decode every frame in sequence; `index` may come from the packets only.

        Args:
            indices: Frames of the whole file to return.
            convert: As in `read`.

        Returns:
            The number of frames, and index -> `convert(frame)` for those of `indices` that exist.

        Raises:
            VideoError: a packet in the middle does not decode.
        """
        self._rewind()
        count, images, wanted = 0, {}, set(indices)
        for index, frame in enumerate(self._decode()):
            count = index + 1
            if index in wanted:
                images[index] = convert(frame)
        return count, images

    def read(self, indices: Sequence[int], convert: Convert) -> dict[int, NDArray[np.uint8]]:
        """Return index -> `convert(frame)` for the given frames.

        Args:
            indices: Indices into `index`; repeats are converted once.
            convert: Applied to the requested frames only, because conversion costs more than decoding.

        Raises:
            VideoError: a packet before the last requested frame does not decode.
            WrongIndexError: the index covers a part only and is wrong.
        """
        wanted = sorted({int(index) for index in indices})
        if self.index.times is not None:
            try:
                return dict(self._read_by_seeking(wanted, self.index.times, convert))
            except _INDEX_IS_WRONG:
                self._recount()
        return dict(self._read_in_sequence(wanted, convert))

    def stream(self, indices: Sequence[int], convert: Convert) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield index and `convert(frame)` of the given frames in increasing order, in constant memory.

        `read` starts again with recounted frames if the packets were wrong. Here the frames that were already
        yielded stay, which were shown at the right times, and the frames after them are recounted ones.

        Args:
            indices: As in `read`.
            convert: As in `read`.

        Raises:
            VideoError: as in `read`.
            WrongIndexError: as in `read`.
        """
        wanted, done = sorted({int(index) for index in indices}), 0
        if self.index.times is not None:
            try:
                for image in self._read_by_seeking(wanted, self.index.times, convert):
                    yield image
                    done += 1
                return
            except _INDEX_IS_WRONG:
                self._recount()
        yield from self._read_in_sequence(wanted[done:], convert)

    def _recount(self) -> None:
        # A recount would number the frames from the beginning of the file, not from that of the part.
        if self.windowed:
            raise WrongIndexError from None
        self.index = self._index_by_decoding()

    def _read_by_seeking(
        self, wanted: list[int], times: NDArray[np.int64], convert: Convert
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        # A part is always reached by a seek; a whole file is read from its beginning.
        # Every key is 0 or more, so the first position of a part makes the condition below true.
        position = -_SEEK_SAVES - 2 if self.windowed else -1
        needed = {int(times[target]) for target in wanted}
        self._rewind()
        frames = self._decode(needed)
        for target in wanted:
            # The last key frame at or before the requested frame.
            key = int(self.index.keys[np.searchsorted(self.index.keys, target, side="right") - 1])
            if key > position + _SEEK_SAVES:
                self._container.seek(int(times[key]), stream=self._stream)
                frames = self._decode(needed)
            yield target, convert(_advance(frames, int(times[target])))
            position = target

    def _read_in_sequence(
        self, wanted: list[int], convert: Convert
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        # A recount by decoding may have found fewer frames than the packets announced.
        last, waiting = len(self.index.seconds) - 1, collections.deque(wanted)
        # Frames that were kept while they were counted need no second decode.
        if len(self._kept) <= last:
            self._rewind()
        for position, frame in enumerate(self._kept if len(self._kept) > last else self._decode()):
            if not waiting:
                return
            if position == min(waiting[0], last):
                image = convert(frame)
                while waiting and min(waiting[0], last) == position:
                    yield waiting.popleft(), image

    def _index_by_decoding(self) -> FrameIndex:
        self._rewind()
        # 2 bytes per pixel is an upper bound for 4:2:0 frames with their padding.
        self._kept, max_kept = [], _KEPT_BYTES // max(2 * self.width * self.height, 1)
        times = []
        for frame in self._decode():
            times.append(-1 if frame.pts is None else frame.pts)
            if len(self._kept) < max_kept:
                self._kept.append(frame)
        stamps = np.array(times, dtype=np.int64)
        if not len(stamps):
            raise VideoError(self.path, "no frame decodes")
        increasing = bool((np.diff(stamps) > 0).all())
        # Times that are missing or jump back are useless. The frames are then spread at the mean rate.
        spacing = float(self._stream.time_base) if increasing else 1 / self.fps
        seconds = (stamps - stamps[0] if increasing else np.arange(len(stamps))).astype(np.float64) * spacing
        return FrameIndex(seconds, None, np.zeros(1, dtype=np.int64))

    def _decode(self, needed: set[int] | None = None) -> Iterator[VideoFrame]:
        """Yield the frames from the current position on: all, or at least those shown at the `needed` times.

        A tail that does not decode ends the video. A hole in the middle is an error, because it would shift
        the indices of all later frames.
        """
        if self.codec not in _CODECS_THAT_MARK_REFERENCES:
            needed = None
        failed: str | None = None
        for packet in self._packets():
            if needed is not None:
                # A frame has the time of its packet, so a frame that is not requested is known before it is
                # decoded. With NONREF FFmpeg skips it if no other frame refers to it.
                skip = "DEFAULT" if packet.pts in needed else "NONREF"
                self._stream.codec_context.skip_frame = skip
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                failed = failed or error.strerror
                continue
            # An error that is followed by a packet that decodes is a hole. Errors up to the end are a
            # truncated tail.
            if failed:
                raise VideoError(self.path, f"damaged in the middle ({failed})")
            yield from frames
        # The decoder still holds frames that it reorders.
        with contextlib.suppress(av.error.FFmpegError):
            yield from self._stream.decode(None)

    def _packets(self) -> Iterator[Any]:
        """Yield the packets that are not empty.

        An empty sample stands for a dropped frame, but an empty packet tells the decoder that the video ends.
        """
        try:
            yield from (packet for packet in self._container.demux(self._stream) if packet.size)
        except av.error.FFmpegError as error:
            # Otherwise the file ends here.
            if error.errno in STORAGE_IS_LOST:
                raise

    def _rewind(self) -> None:
        """Return to the beginning by reopening the file: some formats cannot seek to their first packet."""
        self._container.close()
        self._container, self._stream = open_stream(self.path, self._object)


def _advance(frames: Iterator[VideoFrame], time: int) -> VideoFrame:
    for frame in frames:
        if frame.pts == time:
            return frame
        # Frames arrive in the order of their times, so a later one proves that the requested one is missing.
        if frame.pts is None or frame.pts > time:
            break
    raise WrongIndexError
