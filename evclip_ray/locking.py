"""Lock for folders that several processes may build: one builds, the others wait, on all nodes that share it.

It is an operating-system lock on an open file (`flock`; over NFS, the server's lease). The operating system
releases it when the process ends, also by SIGKILL, so that a killed builder leaves no lock behind.
"""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2


def lock_file(folder: Path) -> Path:
    """Return the lock file of `folder`, in its parent folder.

    It is never removed: a waiting process holds it open, and a new file would be another lock.
    """
    return folder.parent / f".{folder.name}.lock"


@contextlib.contextmanager
def building(folders: Iterable[Path]) -> Iterator[None]:
    """Hold the locks of `folders` during the block. Waiting for another process is logged.

    Check again inside the block which folders exist: another process may have built them meanwhile.
    No lock is taken for a folder whose parent is not writable, since nothing can be built there.
    """
    with contextlib.ExitStack() as locks:
        # All processes lock in the same order, so that two of them cannot wait for each other.
        for folder in sorted(set(folders)):
            if _is_writable(folder.parent):
                locks.enter_context(_locked(folder))
        yield


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # Mode 0666, so that other users of a shared folder can open the lock too. Not thread-local, because such
    # a lock can only be released by the thread that took it.
    lock = FileLock(lock_file(folder), mode=0o666, thread_local=False)
    try:
        # Tried without waiting first, so that only a real wait is logged.
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s: another process is building it; waiting until it is finished", folder)
        lock.acquire(poll_interval=_POLL_SECONDS)
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
