"""Which frames a video file holds, by its packets: nothing is decoded.

Of a part of a long video only the packets around it are read, so that two hours cost no more than the
part does.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

# Containers whose packets carry true presentation times; checked frame by frame against full decodes.
_TIMED_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_CODECS_WITH_INVISIBLE_FRAMES = ("vp8",)
# Enough of the first packets to hold the first frame that is shown: codecs reorder 16 frames at most.
_HEAD = 64
# A part is read with this much around it, as bounds in seconds are rounded.
_MARGIN_SECONDS = 0.01


@dataclasses.dataclass(frozen=True)
class FrameIndex:
    """What a file holds, in order of presentation.

    `seconds`: (N,) when each frame is shown, from the first one's 0. `times`: (N,) the same in the
    stream's own integer units, None where frames can only be read in sequence. `keys`: the frames at
    which decoding can start.
    """

    seconds: NDArray[np.float64]
    times: NDArray[np.int64] | None
    keys: NDArray[np.int64]


def index_of_all(container: Any, stream: Any) -> FrameIndex | None:
    """The frames of a file that was just opened; None where packets do not tell which frames come out."""
    if not _packets_tell(container, stream):
        return None
    try:
        shown = _frames_promised([_facts(packet) for packet in _demux(container, stream)])
    except av.error.FFmpegError:
        return None
    return _index_of(shown, shown[0][0], float(stream.time_base)) if shown else None


def index_of_part(
    container: Any, stream: Any, start_seconds: float | None, end_seconds: float | None
) -> FrameIndex | None:
    """A run of frames that holds the part of a file that was just opened; None where it cannot be told.

    It begins at the last key frame before the part. What is shown after a key frame is decoded after it,
    and nothing is shown before it is decoded, so the first packet that is decoded after the part's end
    ends the run. `seconds` count from the first frame of the file.
    """
    if not _packets_tell(container, stream):
        return None
    try:
        head = itertools.islice(_demux(container, stream), _HEAD)
        shown = _frames_promised([_facts(packet) for packet in head])
        if not shown:
            return None
        zero, base = shown[0][0], float(stream.time_base)
        first = max(zero + int(((start_seconds or 0.0) - _MARGIN_SECONDS) / base), zero)
        last = np.inf if end_seconds is None else zero + (end_seconds + _MARGIN_SECONDS) / base
        run = itertools.takewhile(
            lambda packet: packet.dts is None or packet.dts <= last, _from_key(container, stream, first, zero)
        )
        packets = [_facts(packet) for packet in run]
    except av.error.FFmpegError:
        return None
    # Frames that follow the key frame but are shown before it need what came before it.
    key_time = packets[0][0] if packets else None
    promised = _frames_promised([packet for packet in packets if not _is_before(packet[0], key_time)])
    return _index_of(promised, zero, base) if promised else None


def _packets_tell(container: Any, stream: Any) -> bool:
    timed = container.format.name in _TIMED_CONTAINERS
    return timed and stream.codec_context.name not in _CODECS_WITH_INVISIBLE_FRAMES


def _demux(container: Any, stream: Any) -> Iterator[Any]:
    return (packet for packet in container.demux(stream) if packet.size)


def _from_key(container: Any, stream: Any, first: int, zero: int) -> Iterator[Any]:
    """The packets from a key frame that is shown at the time `first` or before; none where none is found."""
    goal, step = first, int(1 / stream.time_base)
    while True:
        container.seek(goal, stream=stream)
        packets = _demux(container, stream)
        packet = next(packets, None)
        # A container may seek by the times of decoding, and so land behind the wanted frame.
        if packet is not None and packet.pts is not None and packet.pts <= first:
            return itertools.chain([packet], packets)
        if goal <= zero:
            return iter(())
        goal, step = max(goal - step, zero), 2 * step


def _index_of(shown: list[tuple[int, bool]], zero: int, base: float) -> FrameIndex:
    stamps = np.array([time for time, _ in shown], dtype=np.int64)
    keys = np.flatnonzero([is_key for _, is_key in shown])
    seconds = (stamps - zero).astype(np.float64) * base
    return FrameIndex(seconds, stamps, keys if shown[0][1] else np.insert(keys, 0, 0))


def _facts(packet: Any) -> tuple[int | None, bool, bool]:
    return packet.pts, packet.is_keyframe, packet.is_discard


def _is_before(time: int | None, other: int | None) -> bool:
    return time is not None and other is not None and time < other


def _frames_promised(packets: list[tuple[int | None, bool, bool]]) -> list[tuple[int, bool]]:
    """(time, is key frame) of each frame in order of presentation; nothing where packets cannot tell.

    `packets`: (time, is key frame, is decoded but not shown), in order of decoding.
    """
    times = [time for time, _, _ in packets if time is not None]
    if not packets or len(set(times)) < len(packets):
        return []
    # Frames shown before the first key frame, or decoded from nothing, may not come out.
    first_time, first_is_key, _ = packets[0]
    if not first_is_key or min(times) != first_time:
        return []
    return sorted((time, key) for time, key, hidden in packets if time is not None and not hidden)
