"""One process at a time: whoever else wants to make the same folder waits, on any node that shares it.

The lock is the operating system's hold on an open file (`flock`; over NFS, the server's lease). It ends
with the process that holds it, however that ends, so that a killed builder leaves none behind.
"""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2


def lock_file(folder: Path) -> Path:
    """The file that is locked for `folder`: beside it and never removed, as another may be waiting on it."""
    return folder.parent / f".{folder.name}.lock"


@contextlib.contextmanager
def building(folders: Iterable[Path]) -> Iterator[None]:
    """Be the only one to make `folders` for the time of the block; waits for others, and says so.

    What was missing before the block may have been made by another while this waited: look again within.
    A folder whose parent cannot be written to takes no lock: nothing is made there, and who tries is told.
    """
    with contextlib.ExitStack() as held:
        # In one order everywhere: two who want the same folders never wait for each other.
        for folder in sorted(set(folders)):
            if _is_writable(folder.parent):
                held.enter_context(_held(folder))
        yield


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    lock = FileLock(lock_file(folder), mode=0o666, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s: another process is making it; waiting until it is done", folder)
        lock.acquire(poll_interval=_LOOK_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _is_writable(parent: Path) -> bool:
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(parent, os.W_OK)
