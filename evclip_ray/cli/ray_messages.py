"""Messages of Ray itself, kept in a file apart from what this package prints.

Ray's libraries in C++ write to file descriptor 2, past Python and in the middle of the bars. Python therefore
gets a descriptor of its own for standard error by `separate_stderr`, and `ray_messages` sends descriptor 2 to
a file while Ray runs. Tracebacks and the log of this package stay on the terminal.
"""

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from evclip_ray.cli import display
from evclip_ray.ray_internals import send_messages_to
from evclip_ray.termination import error_stream, set_error_stream

NAME = "ray.log"
_NATIVE = 2
"""Standard error of native code."""


def separate_stderr() -> None:
    """Give `sys.stderr` a descriptor of its own. Does nothing if it has one."""
    stream = sys.__stderr__
    if stream is None or stream is not sys.stderr or error_stream() != _NATIVE:
        return
    own = os.dup(_NATIVE)
    sys.stderr = os.fdopen(own, "w", buffering=1, encoding=stream.encoding, errors="backslashreplace")
    set_error_stream(own)


class RayMessages:
    """Messages of a command: in a file without a name, until the folder of the results exists."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile("w+b")  # noqa: SIM115  (closed by `end`)
        # Descriptor 2 shares its place in the file, and a reader moves it.
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
        fcntl.fcntl(self._file, fcntl.F_SETFL, flags | os.O_APPEND)
        self._kept_bytes = 0
        self.path: Path | None = None
        os.dup2(self._file.fileno(), _NATIVE)

    def move_to(self, folder: Path) -> None:
        """Keep the messages in `ray.log` of a folder from now on. Those of earlier calls stay there."""
        if self.path is not None:
            return
        # A folder that cannot be written is reported by the work itself.
        with contextlib.suppress(OSError):
            self._copy_to((folder / NAME).open("ab"))
            self.path = folder / NAME

    def end(self) -> None:
        """Send descriptor 2 back to the terminal, and print where the messages are, if there are any."""
        line = ""
        # A full disk or a removed file must replace neither the results of a command nor its error.
        try:
            if self.path is None and self._num_bytes():
                descriptor, name = tempfile.mkstemp(prefix="evclip-ray-", suffix=f"-{NAME}")
                self._copy_to(os.fdopen(descriptor, "ab"))
                self.path = Path(name)
            if self._num_bytes() > self._kept_bytes:
                line = f"messages of Ray: {self.path}"
            elif self.path is not None and not self._num_bytes():
                self.path.unlink(missing_ok=True)
        except OSError as problem:
            line = f"messages of Ray could not be written: {problem}"
        restore_native_stderr()
        self._file.close()
        if line:
            display.error_console.print(line, soft_wrap=True)

    def _copy_to(self, target: IO[bytes]) -> None:
        kept_bytes = os.fstat(target.fileno()).st_size
        self._file.seek(0)
        shutil.copyfileobj(self._file, target)
        target.flush()
        os.dup2(target.fileno(), _NATIVE)
        self._file.close()
        self._file, self._kept_bytes = target, kept_bytes

    def _num_bytes(self) -> int:
        return os.fstat(self._file.fileno()).st_size


class _NoMessages(RayMessages):
    """Messages that go to the terminal."""

    def __init__(self) -> None:
        self.path = None

    def move_to(self, folder: Path) -> None:
        """Do nothing."""


def restore_native_stderr() -> None:
    """Send descriptor 2 back to the terminal, also for a program that replaces this one."""
    if error_stream() != _NATIVE:
        os.dup2(error_stream(), _NATIVE)


class _State:
    """Messages of the running command; there is one descriptor 2."""

    messages: RayMessages | None = None


def messages_file() -> Path | None:
    """Return the file of the messages of Ray in the running command; None if it has no name or no content."""
    path = None if _State.messages is None else _State.messages.path
    # The folder of the results may have been removed.
    return path if path is not None and path.is_file() and path.stat().st_size else None


@contextlib.contextmanager
def ray_messages(verbose: bool) -> Iterator[RayMessages]:
    """Keep the messages of Ray and of other native code in a file while the block runs.

    Args:
        verbose: Show them instead.
    """
    if verbose or error_stream() == _NATIVE:
        yield _NoMessages()
        return
    messages = _State.messages = RayMessages()
    send_messages_to(sys.__stderr__)
    try:
        yield messages
    finally:
        _State.messages = None
        messages.end()
