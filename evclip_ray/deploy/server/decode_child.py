"""Program that decodes uploaded videos in a process of its own, one after another.

Decoders are C code that reads untrusted bytes. A file may crash the process, hang it or fill its memory, and
no `except` sees that. Here it only ends this process: the server reports it and starts another one. The
guard of the shards (`data/shards/crash_guard.py`) relies on Ray to repeat the work of a dead process, which
takes seconds and would end the requests of all other clients.

Input: one JSON line per video. Output: for each view a JSON line and its pixels, then a JSON line with "end"
or "error".
"""

import contextlib
import faulthandler
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import av
from av.stream import Disposition

from evclip_ray.config import ConfigError
from evclip_ray.data.storage import StorageError
from evclip_ray.data.video.opening import VideoError, one_video
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.reading import read_views
from evclip_ray.deploy.server.limits import Limits
from evclip_ray.deploy.windows import WindowLength
from evclip_ray.formatting import counted

TIMEOUT_STATUS = 1
"""Exit status of the process if a video takes too long: that of the fault handler."""

# FFmpeg recognises a format by its content. Playlists (hls, dash, concat) are left out, because they would
# open other files of the server.
_FORMATS = (
    *("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "gif", "mxf", "nut"),
    *("ivf", "m4v", "mpegvideo", "h264", "hevc", "mjpeg", "dv", "wtv", "rm"),
)


class _TooLargeError(ValueError):
    """Video beyond a limit."""


def main() -> None:
    """Decode the videos that the standard input names until it ends."""
    # What a library prints must not get between the messages.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # If memory is short, the kernel ends this process first.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        request = json.loads(line)
        limits = Limits.load(request["limits"])
        num_bytes = limits.decode_megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, num_bytes))
        try:
            _decode(request, limits, output)
        except MemoryError:
            text = f"needs more than {limits.decode_megabytes} MiB of memory to decode, the limit"
            # The memory may stay in use, so that this process could decode nothing else.
            _send(output, {"error": text, "status": 422, "is_last": True})
            return
        except VideoError as error:
            _send(output, {"error": error.reason, "status": 422})
        except (_TooLargeError, ConfigError) as error:
            _send(output, {"error": str(error), "status": 422})
        except StorageError as error:
            _send(output, {"error": str(error), "status": 500})


def _decode(request: dict[str, Any], limits: Limits, output: BinaryIO) -> None:
    path, view = Path(request["path"]), ViewConfig.load(request["view"])
    windows = WindowLength.of(request["window"], request["stride"])
    clock = _Clock(limits.decode_seconds)
    with clock.running(), one_video(path):
        _check_header(path, limits)
    views = read_views(path, view, windows=windows)
    number = 0
    while True:
        with clock.running():
            each = next(views, None)
        if each is None:
            break
        if number == 0:
            _check_length(each.duration_seconds, windows, limits)
        number += 1
        if number > limits.windows:
            raise _TooLargeError(
                f"has more than {counted(limits.windows, 'window')}, the limit; raise the stride"
            )
        header = {
            "start": each.start_seconds,
            "end": each.end_seconds,
            "duration": each.duration_seconds,
            "num_frames": each.num_frames,
            "shape": each.frames.shape,
        }
        _send(output, {"view": header}, each.frames.tobytes())
    _send(output, {"end": True, "seconds": clock.seconds})


def _check_header(path: Path, limits: Limits) -> None:
    """Check what the header says, before anything of the video is decoded.

    Raises:
        VideoError: The file is not a video.
        _TooLargeError: The video is beyond a limit.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(_FORMATS)}
    try:
        container = av.open(f"file:{path}", options=options, metadata_errors="ignore")
    except av.error.FFmpegError as error:
        raise VideoError(path, f"is not a video that can be read ({error.strerror})") from None
    with container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise VideoError(path, "has no video stream")
        seconds = [container.duration / av.time_base] if container.duration else []
        for stream in streams:
            if stream.codec_context is not None:
                _check_size(stream.codec_context.width, stream.codec_context.height, limits)
            if stream.duration is not None and stream.time_base is not None:
                seconds.append(float(stream.duration * stream.time_base))
        _check_length(max(seconds, default=0), None, limits)


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise _TooLargeError(
            f"has pictures of {width} x {height} pixels, more than the limit of {limits.pixels} pixels"
        )


def _check_length(seconds: float, windows: WindowLength | None, limits: Limits) -> None:
    # A header may be wrong, so this is checked again when the packets have been read.
    if seconds > limits.duration_seconds:
        raise _TooLargeError(f"takes {seconds:.0f} s, more than the limit of {limits.duration_seconds:g} s")
    if windows is None:
        return
    number = int(max(seconds - windows.window_seconds, 0) / windows.stride_seconds) + 1
    if number > limits.windows:
        raise _TooLargeError(
            f"has {counted(number, 'window')}, more than the limit of {limits.windows}; raise the stride"
        )


class _Clock:
    """Time limit of the decoding of one video. It ends the process, also while C code holds the GIL."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self.seconds = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of the block. The time in which the server takes the pixels does not count."""
        start = time.monotonic()
        left = max(self._limit - self.seconds, 0.01)
        faulthandler.dump_traceback_later(left, exit=True, file=sys.stderr)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.seconds += time.monotonic() - start


def _send(output: BinaryIO, message: dict[str, Any], pixels: bytes = b"") -> None:
    output.write(json.dumps(message).encode() + b"\n")
    output.write(pixels)
    output.flush()


if __name__ == "__main__":
    try:
        main()
    except Exception:
        traceback.print_exc()
        # Not 1, which is that of the time limit.
        sys.exit(3)
