"""Watch over the processes of a Ray that this process started.

Ray's client notices a dead GCS after a minute in which calls block, and then ends the process from C++, where
no Python code can report or clean up. A thread therefore looks at the processes themselves.
"""

import contextlib
import importlib.util
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from evclip_ray.termination import ray_died, received_signal

_NAMES = ("gcs_server", "raylet")
_POLL_SECONDS = 0.25
_GRACE_SECONDS = 1.0
"""A job scheduler sends SIGTERM to this process and to those of Ray at the same moment."""
_REAP_SECONDS = 30.0
"""On a machine with many waiting processes, one needs seconds to die of SIGKILL."""
_NOTE_SECONDS = 2.0
"""Time between two looks at the children of the raylet, which read all of /proc."""
_LEAVING_SECONDS = 3.0
"""Time in which the children of an orderly ended raylet end by themselves."""


class _Process(NamedTuple):
    name: str
    parent: int
    is_alive: bool
    start: int


class RayWatch:
    """Thread that calls `ray_died` when the GCS or the raylet dies; a context manager around Ray's life.

    It ends the other processes of Ray first. Without /proc (not Linux) it does nothing.

    It also knows the children of the raylet, workers and agents, to end those that outlive it. Ray's agents
    do so by 60 s if the raylet was killed, because they report its death to a GCS that is dead as well.
    """

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._watched: dict[str, int] = {}
        # Start times by process id: the system uses ids again.
        self._of_raylet: dict[int, int] = {}
        self._noted = -math.inf
        self._thread = threading.Thread(target=self._run, name="ray-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Stop watching, before Ray's processes are ended."""
        self._ended.set()
        self._thread.join()
        self._note_children()

    def end_leftovers(self, grace_seconds: float = _LEAVING_SECONDS) -> None:
        """Kill the children of the raylet that are still alive after a while. Call it after Ray was ended.

        Args:
            grace_seconds: Time in which they may end by themselves.
        """
        until = time.monotonic() + grace_seconds
        while (left := self._alive_children()) and time.monotonic() < until:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def report(self) -> None:
        """Report a process that died while Ray started, if there is one. Stops watching."""
        self.end()
        self._report()

    def _run(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            if time.monotonic() > self._noted + _NOTE_SECONDS:
                self._note_children()
            if self._dead() is not None:
                if not self._ended.wait(_GRACE_SECONDS):
                    self._report()
                return

    def _report(self) -> None:
        dead = self._dead()
        if dead is not None and received_signal() is None:
            end_ray_processes()
            self.end_leftovers(0)
            ray_died(dead)

    def _note_children(self) -> None:
        self._noted = time.monotonic()
        raylet = self._watched.get(_NAMES[1])
        self._of_raylet |= {pid: process.start for pid, process in _processes() if process.parent == raylet}

    def _alive_children(self) -> list[int]:
        now = {pid: _read(pid) for pid in self._of_raylet}
        return [
            pid
            for pid, process in now.items()
            if process is not None and process.is_alive and process.start == self._of_raylet[pid]
        ]

    def _dead(self) -> str | None:
        """Return the name of a watched process that died, None if all are alive."""
        if len(self._watched) < len(_NAMES):
            self._watched |= {
                process.name: pid for pid, process in _children().items() if process.name in _NAMES
            }
        return next((name for name, pid in self._watched.items() if not _is_alive(pid)), None)


def end_ray_processes() -> None:
    """Kill the processes of Ray that this process started. `RayWatch.end_leftovers` ends their children."""
    ours = [pid for pid in _children() if _is_ray(pid)]
    for pid in ours:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # A killed process remains as a zombie until its parent has read its status.
    until = time.monotonic() + _REAP_SECONDS
    while any(_is_alive(pid) for pid in ours) and time.monotonic() < until:
        time.sleep(0.05)
    for pid in ours:
        # Ray's own code may have read it.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _is_ray(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    spec = importlib.util.find_spec("ray")
    assert spec is not None, "ray is a dependency of this package"
    assert spec.origin is not None
    folder = os.fsencode(Path(spec.origin).parent)
    # A dead process has no command line, but its status must be read too.
    return command == [b""] or any(part.startswith(folder) for part in command)


def _children() -> dict[int, _Process]:
    return {pid: process for pid, process in _processes() if process.parent == os.getpid()}


def _is_alive(pid: int) -> bool:
    process = _read(pid)
    return process is not None and process.is_alive


def _processes() -> Iterator[tuple[int, _Process]]:
    with contextlib.suppress(OSError):
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and (process := _read(int(entry.name))) is not None:
                yield int(entry.name), process


def _read(pid: int) -> _Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name is in parentheses and may contain some itself: "12 (my (tool)) S 1 ...".
    head, _, tail = text.rpartition(")")
    # The third field of the file and those after it; the start time is the 22nd.
    fields = tail.split()
    return _Process(head.partition("(")[2], int(fields[1]), fields[0] not in "ZX", int(fields[19]))
