"""What a process was decoding when it died, told to the one that tries again.

Decoders are C code: a file may crash one, hang it, or make it take all memory, which no `except` sees.
So a process writes down which video it is at, and the interpreter's fault handler adds, in the same file,
why the process ends. Whoever starts the work again (Ray does) reads first what must be left out.
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

_CRASH, _TIMEOUT = "Fatal Python error: ", "Timeout ("
_START = b"start\n"
_STEP = re.compile(rb"^video (\d+)$", re.MULTILINE)
# A crash must repeat. A process that was killed may have been killed by a person, or for the memory that
# another one took, so that this says little of the video.
_CRASHES, _KILLS = 2, 5


class Attempts:
    """The attempts at one list of videos, by their places in it; a context manager.

    `path`: the file that they are kept in, gone after a success. `seconds`: what one video may take.
    """

    def __init__(self, path: Path, *, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self._hopeless = _hopeless(path.read_bytes(), seconds) if path.exists() else {}

    def __enter__(self) -> Self:
        self._stream: BinaryIO = self.path.open("ab", buffering=0)
        self._stream.write(_START)
        self._was_enabled = faulthandler.is_enabled()
        faulthandler.enable(self._stream, all_threads=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        faulthandler.disable()
        if self._was_enabled:
            faulthandler.enable(sys.__stderr__ or sys.stderr, all_threads=False)
        self._stream.close()
        self.path.unlink()

    @contextlib.contextmanager
    def at(self, place: int, video: str) -> Iterator[None]:
        """While this video is decoded; the process ends where it takes longer than `seconds`.

        Raises:
            VideoError: earlier attempts ended here.
        """
        if place in self._hopeless:
            raise VideoError(video, self._hopeless[place])
        self._stream.write(b"video %d\n" % place)
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=self._stream)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _hopeless(text: bytes, seconds: float) -> dict[int, str]:
    crashes: Counter[int] = Counter()
    kills: Counter[int] = Counter()
    found: dict[int, str] = {}
    for place, trace in _ends(text):
        if trace.startswith(_TIMEOUT):
            found[place] = f"took longer than {seconds:g} s to decode, the limit"
        elif trace.startswith(_CRASH):
            crashes[place] += 1
            if crashes[place] >= _CRASHES:
                found[place] = f"the decoder crashed, {_signal(trace.removeprefix(_CRASH))}"
        else:
            kills[place] += 1
            if kills[place] >= _KILLS:
                found[place] = f"the process that decoded it was killed {_KILLS} times: too little memory?"
    return found


def _ends(text: bytes) -> Iterator[tuple[int, str]]:
    """(the video that it was at, the first line that says why, or nothing) of each process that died."""
    for attempt in text.split(_START)[1:]:
        if steps := [*_STEP.finditer(attempt)]:
            trace = attempt[steps[-1].end() :].decode(errors="replace").strip()
            yield int(steps[-1][1]), trace.partition("\n")[0]


def _signal(name: str) -> str:
    known = {str(signal.strsignal(number)).replace("-", " "): int(number) for number in signal.Signals}
    number = known.get(name.replace("-", " "))
    return name if number is None else f"signal {number} ({name})"
