"""Locks between processes, on all nodes that share a folder.

They are operating-system locks on an open file (`flock`; over NFS, the server's lease). The operating system
releases a lock when its process ends, also by SIGKILL, so that a killed process leaves none behind. The lock
file stays and names the last process that held it.

On a file system without `flock`, the lock is a file that exists while it is held (`filelock.SoftFileLock`),
with a warning. Such a lock is taken over from a dead process of the same machine, but not from one of another
machine. A file system that has `flock` and refuses it is an error.
"""

import contextlib
import errno
import json
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_SILENT_SECONDS = 2.0
"""A longer wait is logged."""
_REFUSED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors of a file system whose locks do not work, such as NFS without its lock service."""


def lock_file(folder: Path) -> Path:
    """Return the lock file of `folder`, in its parent folder.

    It is never removed: a waiting process holds it open, and a new file would be another lock.
    """
    return folder.parent / f".{folder.name}.lock"


@contextlib.contextmanager
def building(folders: Iterable[Path]) -> Iterator[None]:
    """Hold the locks of `folders` during the block. A longer wait for another process is logged.

    Check again inside the block which folders exist: another process may have built them meanwhile.
    No lock is taken for a folder whose parent is not writable, since nothing can be built there.
    """
    with contextlib.ExitStack() as locks:
        # All processes lock in the same order, so that two of them cannot wait for each other.
        for folder in sorted(set(folders)):
            if _is_writable(folder.parent):
                locks.enter_context(holding(lock_file(folder), f"{folder} is in use"))
        yield


@contextlib.contextmanager
def holding(path: Path, reason: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock during the block. A wait of more than 2 seconds is logged with the holder.

    Args:
        path: Lock file.
        reason: Beginning of the message about a wait.
        wait: Whether to wait for another holder.

    Raises:
        filelock.Timeout: Another process holds the lock, and `wait` is False.
        OSError: The file system does not support locks.
    """
    # Mode 0666, so that other users of a shared folder can open the lock too. Not thread-local, because such
    # a lock can only be released by the thread that took it.
    lock = FileLock(path, mode=0o666, thread_local=False)
    try:
        _acquire(lock, path, reason, wait)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        message = (
            f"{error.strerror}; its file system does not support locks (flock). Mount it with locks, or "
            "choose a folder on another one"
        )
        raise OSError(error.errno, message, str(path)) from None
    try:
        _write_holder(path)
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path, reason: str, wait: bool) -> None:
    try:
        lock.acquire(timeout=_SILENT_SECONDS if wait else 0, poll_interval=_POLL_SECONDS)
    except Timeout:
        if not wait:
            raise
        log.warning("%s by %s; waiting until it ends", reason, holder(path))
        lock.acquire(poll_interval=_POLL_SECONDS)


def holder(path: Path) -> str:
    """Return the process that holds a lock, for a message: "process 17 on node-3"."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        named = json.loads(path.read_text(encoding="utf-8"))
        return f"process {named['pid']} on {named['host']}"
    return "another process"


def _write_holder(path: Path) -> None:
    # For messages only; the lock alone decides. A full disk or a file of another user must not stop its
    # holder. A soft lock has its own text in the file, which must stay.
    with contextlib.suppress(OSError):
        text = path.read_text(encoding="utf-8", errors="replace")
        if not text or text.startswith("{"):
            path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")


def _is_writable(parent: Path) -> bool:
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(parent, os.W_OK)
