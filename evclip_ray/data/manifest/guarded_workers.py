"""Processes that work on one row each at a time and are replaced if a decoder ends or blocks them.

Decoders are C code that may crash, hang or fill the memory. The parent gets each result through a pipe. If a
process dies, its row is given to a new one, which reads the log of `CrashGuard` first and skips the row where
earlier processes died of it too.
"""

import collections
import contextlib
import multiprocessing
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from evclip_ray.data.shards.crash_guard import CrashGuard

Work = Callable[[int, AbstractContextManager[None]], Any]
"""Function of a row and of the guard in which its video is decoded."""
# A full decode of a film of some hours takes less. The limit only ends decoders that hang.
_SECONDS_PER_VIDEO = 3600.0


class _Worker(NamedTuple):
    process: Any
    pipe: Connection


def run_guarded(
    work: Work,
    names: list[str],
    *,
    workers: int,
    seconds_per_video: float = _SECONDS_PER_VIDEO,
) -> Iterator[Any]:
    """Yield `work(row, guard)` for each row, in order.

    The processes are forked, so that they start in milliseconds and have everything that this one has.

    Args:
        work: Called in another process. It must enter the guard, which raises VideoError for a row at which
            earlier processes died.
        names: Path of the video of each row, for the error.
        workers: Number of processes.
        seconds_per_video: Time limit per video.

    Raises:
        Exception: As `work` raises it.
    """
    rows = collections.deque(range(len(names)))
    running: dict[Any, tuple[_Worker, int]] = {}
    finished: dict[int, Any] = {}
    with tempfile.TemporaryDirectory(prefix="evclip-verify-") as logs:

        def assign(row: int, worker: _Worker | None = None) -> None:
            worker = worker or _start(work, names, Path(logs), seconds_per_video)
            worker.pipe.send(row)
            running[worker.pipe] = worker, row

        try:
            while rows and len(running) < workers:
                assign(rows.popleft())
            for expected in range(len(names)):
                while expected not in finished:
                    for pipe in wait(list(running)):
                        worker, row = running.pop(pipe)
                        try:
                            error, finished[row] = worker.pipe.recv()
                        except (EOFError, ConnectionResetError):
                            _end(worker)
                            assign(row)
                            continue
                        if error is not None:
                            running[worker.pipe] = worker, row
                            raise error
                        # At most so many results wait for an earlier row, and a caller may stop early.
                        if rows:
                            assign(rows.popleft(), worker)
                        else:
                            _end(worker)
                yield finished.pop(expected)
        finally:
            for worker, _ in running.values():
                _end(worker)


def _start(work: Work, names: list[str], logs: Path, seconds: float) -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_serve, args=(theirs, ours, work, names, logs, seconds), daemon=True
    )
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


def _serve(
    pipe: Connection, parents: Connection, work: Work, names: list[str], logs: Path, seconds: float
) -> None:
    """Work on rows until the parent has none left or has died."""
    # Ctrl-C reaches the whole group. The parent ends its processes itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Otherwise the end of the parent would not close the pipe.
    parents.close()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            row = pipe.recv()
            result: tuple[Exception | None, Any]
            try:
                with CrashGuard(logs / f"{row}.attempts", seconds=seconds) as guard:
                    result = None, work(row, guard.decoding(row, names[row]))
            except Exception as error:
                result = error, None
            pipe.send(result)
    # The parent was killed.
    shutil.rmtree(logs, ignore_errors=True)
