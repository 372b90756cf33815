"""A node's own copies of files on shared storage: fetched once, for all its processes.

Off until `EVCLIP_RAY_LOCAL` names a folder on this machine's own disk. A copy is known by where its
original is, its size and its time, so that a file that was made again is fetched again. It is verified
and renamed into place. When the disk is short, the copies that were used longest ago go; one that a
process reads stays. Without room for a copy, the original is read where it is.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from evclip_ray.artifacts import ArtifactError, digest, file_digest, replacing

log = logging.getLogger(__name__)

LOCAL = "EVCLIP_RAY_LOCAL"

# Of the disk, left free for others.
_SPARE = 0.05
_BLOCK_BYTES = 2**22
# The copies that a process opened last are those it reads: as many as its sets keep mapped.
_MOST_LEASES = 256
_leases: OrderedDict[Path, BinaryIO] = OrderedDict()
_leasing = threading.Lock()


def nearby(path: Path, is_sound: Callable[[Path], bool] | None = None) -> Path:
    """This node's copy of `path`, fetched if need be; `path` itself without `EVCLIP_RAY_LOCAL` or room.

    `is_sound`: what a new copy must pass, beside being byte for byte what was read.

    Raises:
        ArtifactError: the copy does not pass.
        OSError: the folder for copies cannot be written to.
    """
    local = os.environ.get(LOCAL)
    if not local or not path.is_file():
        return path
    status, folder = path.stat(), Path(local).expanduser()
    name = digest([str(path.absolute()), status.st_size, status.st_mtime_ns])
    copy = folder / f"{name}{path.suffix}"
    if _lease(copy, status.st_size):
        return copy
    with _lock(folder):
        if not _lease(copy, status.st_size):
            if not _fetch(path, copy, status.st_size, is_sound):
                return path
            _lease(copy, status.st_size)
    return copy


def _lease(copy: Path, num_bytes: int) -> bool:
    """Keep a copy from being removed while this process may read it; False where there is no whole one."""
    with _leasing:
        held = _leases.pop(copy, None)
        if held is None:
            try:
                held = copy.open("rb")
            except (FileNotFoundError, NotADirectoryError):
                return False
            fcntl.flock(held, fcntl.LOCK_SH)
        status = os.fstat(held.fileno())
        if status.st_nlink == 0 or status.st_size != num_bytes:
            held.close()
            return False
        os.utime(held.fileno())
        _leases[copy] = held
        while len(_leases) > _MOST_LEASES:
            _leases.popitem(last=False)[1].close()
        return True


def _lock(folder: Path) -> FileLock:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        message = f"{error.strerror}; {LOCAL} must name a folder for copies that can be written to"
        raise OSError(error.errno, message, str(folder)) from None
    # One for the folder: fetching shares a line anyway, and who makes room must know of all.
    return FileLock(folder / ".lock", mode=0o666)


def _fetch(path: Path, copy: Path, num_bytes: int, is_sound: Callable[[Path], bool] | None) -> bool:
    for left_by_a_kill in copy.parent.glob(".*.*.*"):
        left_by_a_kill.unlink()
    try:
        if _has_room(copy.parent, num_bytes):
            _copy(path, copy, is_sound)
            return True
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
    log.warning("%s: no room for a copy of %s, which is read where it is", copy.parent, path)
    return False


def _copy(path: Path, copy: Path, is_sound: Callable[[Path], bool] | None) -> None:
    with replacing(copy) as temporary:
        read = hashlib.sha256()
        with path.open("rb") as source, temporary.open("wb") as target:
            while block := source.read(_BLOCK_BYTES):
                read.update(block)
                target.write(block)
        same = read.hexdigest().startswith(file_digest(temporary))
        if not same or (is_sound is not None and not is_sound(temporary)):
            raise ArtifactError(
                f"{path}: its copy in {copy.parent} is damaged; run again, or prepare it again"
            )


def _has_room(folder: Path, num_bytes: int) -> bool:
    """Whether `num_bytes` fit, once copies that nobody reads have made room for them."""
    unused = sorted(folder.glob("[!.]*"), key=lambda copy: copy.stat().st_mtime_ns)
    while not (fits := _fits(folder, num_bytes)) and unused:
        with unused.pop(0).open("rb") as oldest, contextlib.suppress(BlockingIOError):
            fcntl.flock(oldest, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Path(oldest.name).unlink()
    return fits


def _fits(folder: Path, num_bytes: int) -> bool:
    disk = shutil.disk_usage(folder)
    return disk.free - num_bytes >= _SPARE * disk.total
