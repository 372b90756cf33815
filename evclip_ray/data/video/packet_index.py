"""Index of the frames of a video file from its packets, without decoding.

For a part of a long video, only the packets around it are read, so the cost does not depend on the length
of the file.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

# Containers whose packets carry exact presentation times, as comparisons with full decodes showed.
_TIMED_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
# VP8's alternate reference frames are packets that are decoded but never shown.
_CODECS_WITH_INVISIBLE_FRAMES = ("vp8",)
# Codecs whose decoders can start at a key frame of the file. Each returns no frame before a real key frame,
# so a false key flag is noticed, and its key frames need nothing from the packets before them. All others
# are decoded from the beginning of the file. Decoders of MPEG-4 part 2, H.263, MSMPEG4, Cinepak and
# QuickTime Animation start anywhere and return grey pictures. QuickTime files store a palette with the first
# packet only, and MPEG-4 files the encoder's name, which selects the inverse transform.
SEEKABLE_CODECS = {
    "h264": "starts at an IDR picture or a recovery point; its parser corrects false flags",
    "hevc": "starts at an intra random access picture",
    "vp9": "starts at a key frame; other frames have missing references, which is an error",
    "av1": "starts at a key frame, which has the sequence header",
    "ffv1": "starts at a key frame by the flag inside the frame; other frames are an error before it",
    "mjpeg": "each packet is a whole image",
    "jpeg2000": "each packet is a whole image",
    "png": "each packet is a whole image, with its palette",
    "prores": "each packet is a whole image",
    "dnxhd": "each packet is a whole image",
    "dvvideo": "each packet is a whole image",
}
# Enough packets to include the first frame that is shown: codecs reorder at most 16 frames.
_HEAD = 64
# A part is read with this margin, because the bounds in manifests are rounded.
_MARGIN_SECONDS = 0.01


@dataclasses.dataclass(frozen=True)
class FrameIndex:
    """Frames of a file in order of presentation.

    Attributes:
        seconds: (N,) time of each frame in seconds; the first frame of the file is at 0.
        times: (N,) the same in the stream's integer units; None if frames can only be read in sequence.
        keys: Indices of the frames at which decoding can start; 0 alone if it can start only there.
    """

    seconds: NDArray[np.float64]
    times: NDArray[np.int64] | None
    keys: NDArray[np.int64]


def index_of_all(container: Any, stream: Any) -> FrameIndex | None:
    """Return the index of a newly opened file; None if its packets do not determine the frames."""
    if not _has_exact_times(container, stream):
        return None
    try:
        shown = _shown_frames([_packet_facts(packet) for packet in _demux(container, stream)])
    except av.error.FFmpegError:
        return None
    if not shown:
        return None
    # The first time of a stream is not always 0.
    index = _index_of(shown, shown[0][0], float(stream.time_base))
    return index if can_seek(stream) else dataclasses.replace(index, keys=index.keys[:1])


def index_of_part(
    container: Any, stream: Any, start_seconds: float | None, end_seconds: float | None
) -> FrameIndex | None:
    """Return the index of a run of frames that contains a part; None if packets do not determine it.

    The run begins at the last key frame before the part. Frames that are shown after a key frame are decoded
    after it, and no frame is shown before it is decoded. The run therefore ends at the first packet whose
    decoding time is after the part's end. `seconds` count from the first frame of the file.

    An edit list with several cuts repeats packets as hidden ones, whose times overlap those of shown packets.
    A run that touches a hidden packet does not determine the frames, unless this is the start of the file.

    Args:
        container: Open container, positioned at its beginning.
        stream: Its video stream.
        start_seconds: Start of the part; None for the beginning of the file.
        end_seconds: End of the part; None for the end of the file.
    """
    if not _has_exact_times(container, stream) or not can_seek(stream):
        return None
    try:
        packets = _demux(container, stream)
        head = [(packet.dts, _packet_facts(packet)) for packet in itertools.islice(packets, _HEAD)]
        shown = _shown_frames([facts for _, facts in head])
        if not shown:
            return None
        zero, base = shown[0][0], float(stream.time_base)
        first = max(zero + int(((start_seconds or 0.0) - _MARGIN_SECONDS) / base), zero)
        last = np.inf if end_seconds is None else zero + (end_seconds + _MARGIN_SECONDS) / base
        run: list[tuple[int | None, bool, bool]] = []
        # Hidden packets at the start of the file precede the first frame that is shown.
        may_hide = False
        for packet in _from_key(container, stream, first, zero):
            may_hide = may_hide and run[-1][2] if run else packet.dts == head[0][0]
            if packet.is_discard and not may_hide:
                return None
            if packet.dts is not None and packet.dts > last:
                break
            run.append(_packet_facts(packet))
    except av.error.FFmpegError:
        return None
    # Frames of an open group follow the key frame but are shown before it. They refer to frames before the
    # key frame, which were not read.
    key_time = run[0][0] if run else None
    frames = _shown_frames([packet for packet in run if not _is_before(packet[0], key_time)])
    return _index_of(frames, zero, base) if frames else None


def can_seek(stream: Any) -> bool:
    """Return whether frames after a seek to a key frame equal those of a full decode."""
    return stream.codec_context.codec.canonical_name in SEEKABLE_CODECS


def _has_exact_times(container: Any, stream: Any) -> bool:
    timed = container.format.name in _TIMED_CONTAINERS
    return timed and stream.codec_context.name not in _CODECS_WITH_INVISIBLE_FRAMES


# PyAV ends a stream with an empty packet, which flushes the decoder and holds no frame.
def _demux(container: Any, stream: Any) -> Iterator[Any]:
    return (packet for packet in container.demux(stream) if packet.size)


def _from_key(container: Any, stream: Any, first: int, zero: int) -> Iterator[Any]:
    """Return the packets from a key frame shown at or before the time `first`, or none."""
    # The step is one second in the stream's units. It doubles with each attempt, so that a key frame far back
    # is reached by few seeks.
    goal, step = first, int(1 / stream.time_base)
    while True:
        container.seek(goal, stream=stream)
        packets = _demux(container, stream)
        packet = next(packets, None)
        # Some containers seek by decoding time and land after the wanted frame; then seek further back.
        if packet is not None and packet.pts is not None and packet.pts <= first:
            return itertools.chain([packet], packets)
        if goal <= zero:
            return iter(())
        goal, step = max(goal - step, zero), 2 * step


def _index_of(shown: list[tuple[int, bool]], zero: int, base: float) -> FrameIndex:
    """Build the index of frames (time, is key frame).

    >>> index = _index_of([(512, True), (1024, False), (1536, True)], zero=512, base=1 / 12800)
    >>> index.seconds.round(2).tolist(), index.times.tolist(), index.keys.tolist()
    ([0.0, 0.04, 0.08], [512, 1024, 1536], [0, 2])

    Args:
        shown: Frames in order of presentation.
        zero: Time of the first frame of the file.
        base: Seconds per unit of time.
    """
    stamps = np.array([time for time, _ in shown], dtype=np.int64)
    # If the first shown frame is not a key frame, a hidden key frame lies before it, and a seek goes back to
    # that.
    keys = np.flatnonzero([is_key for _, is_key in shown])
    seconds = (stamps - zero).astype(np.float64) * base
    return FrameIndex(seconds, stamps, keys if shown[0][1] else np.insert(keys, 0, 0))


def _packet_facts(packet: Any) -> tuple[int | None, bool, bool]:
    return packet.pts, packet.is_keyframe, packet.is_discard


def _is_before(time: int | None, other: int | None) -> bool:
    return time is not None and other is not None and time < other


def _shown_frames(packets: list[tuple[int | None, bool, bool]]) -> list[tuple[int, bool]]:
    """Return (time, is key frame) of each frame in order of presentation, or [] if packets are ambiguous.

    A B-frame is decoded after the frame that it precedes on screen; a hidden frame is never shown:

    >>> _shown_frames([(0, True, False), (2, False, False), (1, False, False), (3, False, True)])
    [(0, True), (1, False), (2, False)]

    Args:
        packets: (time, is key frame, is hidden), in order of decoding.
    """
    times = [time for time, _, _ in packets if time is not None]
    # A packet without a time, or two packets with one time, cannot be assigned to frames.
    if not packets or len(set(times)) < len(packets):
        return []
    # Frames that are shown before the first key frame, or have no key frame, may not be decodable.
    first_time, first_is_key, _ = packets[0]
    if not first_is_key or min(times) != first_time:
        return []
    # Hidden frames come from an edit list of an MP4: later frames refer to them, but players do not show
    # them.
    return sorted((time, key) for time, key, hidden in packets if time is not None and not hidden)
