"""Early end of a command: by Ctrl-C, by SIGTERM, or because a process of the local Ray died."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

log = logging.getLogger(__name__)

SHOW_CURSOR = "\x1b[?25h"
"""Sequence that shows the cursor of a terminal."""

RayDeathHandler = Callable[[str], None]
"""Called in a thread with the name of the process of Ray that died, after all others were ended."""


class Terminated(KeyboardInterrupt):
    """SIGTERM. It ends a command as Ctrl-C does."""


class _State:
    """State of this process. A signal reaches the process as a whole, so there is one."""

    received: signal.Signals | None = None
    is_shown = False
    error_stream = 2
    on_ray_death: RayDeathHandler | None = None


def note_signal(number: int) -> None:
    """Record that a signal ends this process. A dead Ray is then expected, and not started again."""
    _State.received = signal.Signals(number)


def received_signal() -> signal.Signals | None:
    """Return the signal that ends this process, None without one."""
    return _State.received


def exit_status() -> int:
    """Return the exit status of an interrupted command as shells have it.

    It is 130 for Ctrl-C and 143 for SIGTERM.
    """
    return 128 + (_State.received or signal.SIGINT)


def raise_on_signals() -> None:
    """Let Ctrl-C and SIGTERM print that the command stops, and raise an exception in the main thread.

    The exceptions are `KeyboardInterrupt` and `Terminated`. A signal in the middle of an import ends the
    process at once, because an exception in the start of a C++ module aborts it (SIGABRT). Files are written
    as for a kill. Does nothing in another thread, and leaves an ignored Ctrl-C ignored, as in a job in the
    background.
    """
    # Python allows signal handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGTERM, _raise)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _raise)


def announce_stop() -> None:
    """Print that the command stops, which can take seconds. Callable in a signal handler."""
    if not _State.is_shown:
        write_error("\nStopping ...\n")


@contextlib.contextmanager
def stop_is_shown() -> Iterator[None]:
    """Let the block itself show that the command stops, see `received_signal`: it has bars in a terminal."""
    _State.is_shown = True
    try:
        yield
    finally:
        _State.is_shown = False


def write_error(text: str) -> None:
    """Write to standard error without Python's buffers, in the middle of whose work a signal may have come.

    It can be called from every thread, and while the main thread holds a lock.
    """
    # A closed terminal is no reason to fail.
    with contextlib.suppress(OSError):
        os.write(_State.error_stream, text.encode(errors="backslashreplace"))


def _raise(number: int, frame: FrameType | None) -> None:
    note_signal(number)
    if _is_importing(frame):
        # Bars hide the cursor.
        write_error(f"{SHOW_CURSOR if _State.is_shown else ''}\nInterrupted.\n")
        os._exit(128 + number)
    announce_stop()
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def error_stream() -> int:
    """Return the file descriptor on which this process prints its errors."""
    return _State.error_stream


def set_error_stream(descriptor: int) -> None:
    """Set the file descriptor on which this process prints its errors; by default 2."""
    _State.error_stream = descriptor


def set_ray_death_handler(handler: RayDeathHandler) -> None:
    """Set what happens when a process of the local Ray dies. By default one line is logged."""
    _State.on_ray_death = handler


@contextlib.contextmanager
def ray_may_die() -> Iterator[None]:
    """Neither report nor restart a Ray that dies in the block, because the caller reports its error."""
    before = _State.on_ray_death
    _State.on_ray_death = lambda process: None
    try:
        yield
    finally:
        _State.on_ray_death = before


def ray_died(process: str) -> None:
    """Report that a process of the local Ray died."""
    if _State.on_ray_death is not None:
        _State.on_ray_death(process)
        return
    log.error(
        "Ray's process %s died. Everything finished is kept, and the same call continues it. Ray ends this "
        "process within a minute.",
        process,
    )
