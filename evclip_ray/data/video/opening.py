"""Opening of video files, and the border of one video: its errors never end the work on others."""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
from av.stream import Disposition

from evclip_ray.data import storage
from evclip_ray.data.storage import STORAGE_IS_LOST, Place, StorageError

_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class VideoError(ValueError):
    """A video that cannot be used; `reason` is one line."""

    def __init__(self, path: Place, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@contextlib.contextmanager
def one_video(path: Place) -> Iterator[None]:
    """Convert each error of the work on one video to a VideoError with its type and text.

    Decoders and containers raise errors of many types. A caller that reads many videos handles VideoError
    alone, and no file ends the work on the others. Errors of this package pass unchanged, because they name
    their cause, and so do MemoryError and a full disk.

    Raises:
        VideoError: the video cannot be used.
        StorageError: the storage is lost, or the process has too many open files.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if type(error).__module__.partition(".")[0] == __name__.partition(".")[0] or number in _DISK_IS_FULL:
            raise
        if number in STORAGE_IS_LOST:
            raise StorageError(
                f"{path}: {os.strerror(number)} (errno {number}); check the storage and its mount, or raise "
                "the limit with ulimit -n, and run again; finished work is kept"
            ) from error
        text = getattr(error, "strerror", None) or " ".join(str(error).split())
        name = type(error).__name__
        raise VideoError(path, f"{name}: {text}" if text else name) from error


def open_source(path: Place) -> BinaryIO | None:
    """Return the open object of a URI; None for a file, which FFmpeg opens itself."""
    try:
        return storage.open_binary(path) if isinstance(path, str) else None
    except FileNotFoundError as error:
        raise VideoError(path, f"cannot be opened ({error.strerror})") from None


def open_stream(path: Place, source: BinaryIO | None) -> tuple[Any, Any]:
    """Open a container; return it and the video stream that players show."""
    # With "file:", a colon in a name does not start a protocol. The whitelist keeps a playlist from opening
    # network addresses. Tags in another encoding than UTF-8 matter to no frame.
    if source is not None:
        source.seek(0)
    try:
        container = av.open(
            source or f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="ignore"
        )
    except StorageError:
        raise
    except (av.error.FFmpegError, OSError) as error:
        # `one_video` tells errors of the machine from those of the file.
        if error.errno in STORAGE_IS_LOST:
            raise
        raise VideoError(path, f"cannot be opened ({error.strerror})") from None
    try:
        stream = _shown_stream(path, container)
    except VideoError:
        container.close()
        raise
    # Ray decodes many files in parallel; threads inside one decoder would only compete for the same cores.
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return container, stream


def _shown_stream(path: Place, container: Any) -> Any:
    """Return the video stream that players show.

    It is the first that is marked as a default, or the one that FFmpeg finds best if none is marked. Several
    marked streams are the same video in several sizes. Pictures of a cover are streams too.
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError(path, "has no video stream")
    best = container.streams.best("video")
    fallback = best if best in streams else streams[0]
    stream = next((s for s in streams if s.disposition & Disposition.default), fallback)
    if stream.codec_context is None:
        raise VideoError(
            path,
            "no decoder for its codec, unknown or protected; convert it with a program that plays it",
        )
    return stream
