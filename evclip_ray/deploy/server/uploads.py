"""Temporary files of the server, and uploads that are checked while they arrive.

Each server process has a folder of its own below one base folder of the user. It holds a lock on it, which
the kernel releases when the process ends, however it ends. A folder without a lock is therefore garbage; it
is removed when the next server starts and when the command ends.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

from evclip_ray.config import ConfigError
from evclip_ray.deploy.server.limits import Limits, Refusal

# Everything of a form except the file. 10,000 names fit, so that their number is what the error names.
_FIELDS_BYTES = 1_000_000
_BOUNDARY_BYTES = 200


def base_folder() -> Path:
    """Return the base folder of this user, which only this user can enter.

    Raises:
        ConfigError: Another user made the folder.
    """
    base = Path(tempfile.gettempdir()) / f"evclip-ray-serve-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    # Everybody can create names in /tmp: a link or a folder of another user must not be used.
    status = base.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigError(
            f"{base}: must be a folder that only this user can enter; remove it, or set TMPDIR to another "
            "folder"
        )
    return base


def remove_abandoned(base: Path | None = None) -> None:
    """Remove the folders of processes that have ended."""
    base = base or base_folder()
    with _locked(base):
        for folder in base.iterdir():
            with contextlib.suppress(BlockingIOError), _locked(folder, wait=False):
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


class UploadFolder:
    """Folder of the temporary files of one server process; a context manager that removes it.

    Args:
        base: Folder to create it in; `base_folder()` by default.
    """

    def __init__(self, base: Path | None = None) -> None:
        base = base or base_folder()
        remove_abandoned(base)
        # With the lock of the base, no other process sees the new folder before it is locked.
        with _locked(base):
            self.path = Path(tempfile.mkdtemp(prefix="replica-", dir=base))
            self._lock = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder with all files."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @contextlib.contextmanager
    def new_file(self) -> Iterator[Path]:
        """Create an empty file for the time of the block. Its name comes from no request."""
        descriptor, name = tempfile.mkstemp(prefix="video-", dir=self.path)
        os.close(descriptor)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


class Form:
    """Multipart form that is parsed while it arrives: the file goes to disk, the fields are kept.

    Args:
        boundary: Boundary of the parts, from the request's content type.
        stream: Receives the file.
        max_bytes: Largest file.

    Attributes:
        fields: Values of each field, in order.
        file_name: Name of the file on the client, for the answer only; None without a file.
        file_bytes: Size of the file so far.
    """

    def __init__(self, boundary: bytes, stream: BinaryIO, *, max_bytes: int) -> None:
        from python_multipart.multipart import MultipartParser

        self.fields: dict[str, list[str]] = {}
        self.file_name: str | None = None
        self.file_bytes = 0
        self._stream, self._max_bytes = stream, max_bytes
        self._field_bytes = 0
        self._header, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name, self._is_file, self._is_complete = "", False, False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_header,
                "on_header_value": self._on_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._start_part,
                "on_part_data": self._on_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def write(self, data: bytes) -> None:
        """Parse the next bytes of the body.

        Raises:
            Refusal: The form is malformed, or a part is too large.
        """
        from python_multipart.exceptions import FormParserError

        try:
            self._parser.write(data)
        except FormParserError as error:
            raise Refusal(422, f"the form is malformed ({error})") from None

    def finish(self) -> None:
        """Check that the whole form has arrived.

        Raises:
            Refusal: The body ended before the form, or it has no file.
        """
        if not self._is_complete:
            raise Refusal(422, "the form is incomplete: its last boundary is missing")
        if self.file_name is None:
            raise Refusal(422, "the form has no file; send the video as the part 'video'")
        if not self.file_bytes:
            raise Refusal(422, f"{self.file_name}: the file is empty")

    def _begin(self) -> None:
        self._headers.clear()
        self._value.clear()

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _start_part(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = b"filename" in options
        if not self._is_file:
            return
        if self._name != "video" or self.file_name is not None:
            raise Refusal(422, f"{self._name!r}: send one file, as the part 'video'")
        # Only the last part of a path, and only as text in the answer: no file gets this name.
        name = options[b"filename"].decode("utf-8", "replace").replace("\\", "/")
        self.file_name = name.rpartition("/")[2][:255] or "video"

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.file_bytes += end - start
            if self.file_bytes > self._max_bytes:
                raise too_large(self._max_bytes)
            self._stream.write(data[start:end])
            return
        self._field_bytes += end - start
        if self._field_bytes > _FIELDS_BYTES:
            raise Refusal(413, f"the fields of the form are larger than {_FIELDS_BYTES} bytes together")
        self._value += data[start:end]

    def _end_part(self) -> None:
        if not self._is_file:
            self._field_bytes += len(self._name) + 1
            self.fields.setdefault(self._name, []).append(self._value.decode("utf-8", "replace"))

    def _end(self) -> None:
        self._is_complete = True


def max_body(limits: Limits) -> int:
    """Return the largest body of a request in bytes: a file, fields, and their boundaries."""
    return limits.upload_bytes + 2 * _FIELDS_BYTES


def too_large(max_bytes: int) -> Refusal:
    """Return the refusal of a file that is too large."""
    return Refusal(413, f"the file is larger than {max_bytes / 1e6:g} MB, the limit of this server")


async def read_form(
    chunks: AsyncIterator[bytes], content_type: str, path: Path, limits: Limits
) -> tuple[str, dict[str, list[str]]]:
    """Read a multipart form and write its file to a path.

    Args:
        chunks: Body of the request.
        content_type: Value of the header `Content-Type`.
        path: File to write.
        limits: Limits of sizes and times.

    Returns:
        The client's name of the file, and the values of each field.

    Raises:
        Refusal: The form is malformed, too large or too slow.
    """
    from python_multipart.multipart import parse_options_header

    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= _BOUNDARY_BYTES:
        raise Refusal(422, "the header Content-Type has no boundary of the form")
    with path.open("wb") as stream:
        form = Form(boundary, stream, max_bytes=limits.upload_bytes)
        total = 0
        async for chunk in timely(chunks, limits):
            total += len(chunk)
            # What a form holds besides its parts, such as bytes after its end, is not counted as a part.
            if total > max_body(limits):
                raise too_large(limits.upload_bytes)
            form.write(chunk)
    form.finish()
    assert form.file_name is not None
    return form.file_name, form.fields


async def read_body(chunks: AsyncIterator[bytes], limits: Limits) -> bytes:
    """Read a small body.

    Raises:
        Refusal: The body is too large or too slow.
    """
    body = bytearray()
    async for chunk in timely(chunks, limits):
        body += chunk
        if len(body) > _FIELDS_BYTES:
            raise Refusal(413, f"the body is larger than {_FIELDS_BYTES} bytes; send a video as a form")
    return bytes(body)


async def timely(chunks: AsyncIterator[bytes], limits: Limits) -> AsyncIterator[bytes]:
    """Yield the chunks of a body.

    Raises:
        Refusal: No byte arrived for `stall_seconds`, or the body took longer than `upload_seconds`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limits.upload_seconds
    while True:
        left = deadline - loop.time()
        try:
            async with asyncio.timeout(min(left, limits.stall_seconds)):
                chunk: Any = await anext(chunks, None)
        except TimeoutError:
            if left < limits.stall_seconds:
                reason = f"the upload took longer than {limits.upload_seconds:g} s"
            else:
                reason = f"the upload stopped for {limits.stall_seconds:g} s"
            raise Refusal(408, reason, headers={"Connection": "close"}) from None
        if chunk is None:
            return
        yield chunk
