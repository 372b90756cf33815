"""One command, the processes that it started, and what it left behind.

The harness adopts orphans. All processes of a command are therefore below the harness, whatever died between.
"""

import contextlib
import ctypes
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
_ENDING_SECONDS = 90.0
"""Time in which the processes of a command that has ended must end.

Two agents of Ray need a minute after their raylet was killed: they report it to a dead GCS, with a time limit
of 60 s that is written in Ray 2.60 (`publish_error_to_driver`).
"""
_SHARED_MEMORY = Path("/dev/shm")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: Exit status; negative for a signal.
        output: Text of both streams.
        seconds: Wall time.
        left: Processes that outlived the command by more than 30 s, by command line or as "zombie NAME".
    """

    status: int
    output: str
    seconds: float
    left: tuple[str, ...]


class Command:
    """A running command. Only one may run at a time, see `adopt_orphans`.

    Args:
        arguments: The command line.
        log: File for both of its output streams.
        environment: Variables beside those of this process.
    """

    def __init__(self, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> None:
        self.log, self._began = log, time.monotonic()
        # Such as a Ray that the tests share. They and their children are not of this command.
        self._others = frozenset(_family())
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                arguments,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # A signal to the harness must not reach the command.
                start_new_session=True,
                # A shell that starts the harness in the background makes it ignore SIGINT, and the command
                # would inherit that.
                preexec_fn=_default_signals,
            )

    @property
    def pid(self) -> int:
        """Process id of the driver."""
        return self._process.pid

    @property
    def output(self) -> str:
        """What the command has printed so far."""
        return self.log.read_text(errors="replace")

    def is_running(self) -> bool:
        """Return whether the driver has not ended yet."""
        return self._process.poll() is None

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the command ends, the condition holds or the time is over. Returns whether it runs."""
        deadline = time.monotonic() + seconds
        while self.is_running() and time.monotonic() < deadline and not until():
            time.sleep(0.05)
        return self.is_running()

    def find(self, *titles: str) -> list[int]:
        """Return the processes of this command whose command line contains one of `titles`."""
        return [pid for pid in _family(self._others) if any(title in _title(pid) for title in titles)]

    def finish(self, seconds: float) -> Ended:
        """Wait for the end of the command and of all its processes, and end those that remain.

        Args:
            seconds: Time after which the command counts as hanging and is killed.
        """
        hangs = self.wait(seconds)
        if hangs:
            self._process.kill()
        status = self._process.wait()
        taken = time.monotonic() - self._began
        deadline = time.monotonic() + _ENDING_SECONDS
        while (left := _family(self._others)) and time.monotonic() < deadline:
            _reap()
            time.sleep(0.2)
        named = tuple(_title(pid).strip()[:120] or f"zombie {name}" for pid, name in left.items())
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap()
        output = self.output + (f"\n[hangs: killed after {seconds:.0f} s]" if hangs else "")
        return Ended(status, output, taken, named)


def adopt_orphans() -> None:
    """Make this process the parent of processes whose parent dies, so that it can find and reap them.

    Process 1 of a container often reaps nothing, and every orphan that ended would look like a zombie.
    """
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def _family(others: frozenset[int] = frozenset()) -> dict[int, str]:
    """Return all processes below this one by id, with their names, without `others` and those below them."""
    parents, names = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        # A process may end while it is read.
        with contextlib.suppress(OSError):
            head, _, tail = file.read_text().rpartition(")")
            pid = int(file.parent.name)
            parents[pid], names[pid] = int(tail.split()[1]), head.partition("(")[2]
    own = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in own} - own - others:
        own |= more
    return {pid: names[pid] for pid in own - {os.getpid()}}


def shared_memory() -> set[str]:
    """Return the files in shared memory that no running process has open or mapped."""
    used = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            used |= {
                line.split()[-1] for line in (folder / "maps").read_text().splitlines() if "/dev/shm" in line
            }
        with contextlib.suppress(OSError):
            for link in (folder / "fd").iterdir():
                with contextlib.suppress(OSError):
                    used.add(str(link.readlink()))
    return {path.name for path in _SHARED_MEMORY.iterdir() if str(path) not in used}


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
