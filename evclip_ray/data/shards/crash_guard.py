"""Protection against videos that end the process that decodes them.

Decoders are C code. A file may crash the process, hang it, or fill its memory, and no `except` sees that.
The process therefore logs each video before it decodes it, and the interpreter's fault handler appends the
cause of death to the same file. The process that repeats the work (Ray starts one) reads this log first and
skips the videos that ended earlier processes.
"""

import contextlib
import faulthandler
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from evclip_ray.data.video.reader import VideoError

# The first words of what `faulthandler` writes for a signal and for a timeout.
_CRASH, _TIMEOUT = "Fatal Python error: ", "Timeout ("
_START = b"start\n"
_STEP = re.compile(rb"^video (\d+)$", re.MULTILINE)
# One crash may be chance. A kill (SIGKILL leaves no trace) is weaker evidence still: a person may have sent
# it, or the kernel because another process filled the memory.
_MAX_CRASHES, _MAX_KILLS = 2, 5


class CrashGuard:
    """Guard of the decoding of one list of videos; a context manager.

    Args:
        path: Log of the processes that worked on the list; removed on success.
        seconds: Time limit per video.
    """

    def __init__(self, path: Path, *, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self._skip_reasons = _skip_reasons(path.read_bytes(), seconds) if path.exists() else {}

    def __enter__(self) -> Self:
        # Unbuffered: each line must be in the file before the decoder runs.
        self._stream: BinaryIO = self.path.open("ab", buffering=0)
        self._stream.write(_START)
        # Ray's workers enable the fault handler for stderr. There is one handler per process, so it is
        # restored later.
        self._was_enabled = faulthandler.is_enabled()
        # Without this, `enable` would only change the file of a handler that is on already. It would not take
        # the signals back from a library that replaced the handler since, as Ray does when it starts.
        faulthandler.disable()
        # The handler is C code for SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT. It writes to the descriptor
        # of this file, and the signal then ends the process as usual.
        faulthandler.enable(self._stream, all_threads=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        faulthandler.disable()
        if self._was_enabled:
            faulthandler.enable(sys.__stderr__ or sys.stderr, all_threads=False)
        self._stream.close()
        # Also after a Python exception: only a process that died leaves its log behind.
        self.path.unlink()

    @contextlib.contextmanager
    def decoding(self, index: int, video: str) -> Iterator[None]:
        """Guard the decoding of one video; the process exits if it takes longer than `seconds`.

        Args:
            index: Index of the video in the list.
            video: Its path, for the error.

        Raises:
            VideoError: earlier processes ended at this video.
        """
        if index in self._skip_reasons:
            raise VideoError(video, self._skip_reasons[index])
        self._stream.write(b"video %d\n" % index)
        # A thread of C code, so it also fires while the decoder holds the GIL.
        # `exit=True` calls _exit(1), which runs no `finally`. An exception could not help, because no Python
        # code runs while C code hangs.
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=self._stream)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _skip_reasons(log: bytes, seconds: float) -> dict[int, str]:
    """Return the videos to skip, index -> reason."""
    crashes: Counter[int] = Counter()
    kills: Counter[int] = Counter()
    reasons: dict[int, str] = {}
    for index, trace in _deaths(log):
        if trace.startswith(_TIMEOUT):
            reasons[index] = f"took longer than {seconds:g} s to decode, the limit"
        elif trace.startswith(_CRASH):
            crashes[index] += 1
            if crashes[index] >= _MAX_CRASHES:
                reasons[index] = f"the decoder crashed, {_signal(trace.removeprefix(_CRASH))}"
        else:
            kills[index] += 1
            if kills[index] >= _MAX_KILLS:
                reasons[index] = (
                    f"the process that decoded it was killed {_MAX_KILLS} times: too little memory?"
                )
    return reasons


def _deaths(log: bytes) -> Iterator[tuple[int, str]]:
    """Yield (index of the video, first line of the trace or "") for each process that died."""
    # Each process that works on the list appends a start line. Its last video is the one that it died at.
    for process in log.split(_START)[1:]:
        if steps := [*_STEP.finditer(process)]:
            trace = process[steps[-1].end() :].decode(errors="replace").strip()
            yield int(steps[-1][1]), trace.partition("\n")[0]


def _signal(name: str) -> str:
    # `faulthandler` and `strsignal` differ in hyphens: "Floating-point exception".
    numbers = {str(signal.strsignal(number)).replace("-", " "): int(number) for number in signal.Signals}
    number = numbers.get(name.replace("-", " "))
    return name if number is None else f"signal {number} ({name})"
