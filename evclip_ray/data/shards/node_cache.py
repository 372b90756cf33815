"""A node's own copies of files on shared storage, each fetched once for all processes of the node.

The cache is off until `EVCLIP_RAY_LOCAL` names a folder on a local disk. A copy is identified by the path,
size and modification time of its original, so a rewritten original is fetched again. A copy is verified and
renamed into place. When the disk is short, the least recently used copies are removed, except those that a
process is reading. If a copy does not fit, the original is read.
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

from evclip_ray.artifacts import ArtifactError, digest, file_digest, replacing
from evclip_ray.locking import holding

log = logging.getLogger(__name__)

LOCAL = "EVCLIP_RAY_LOCAL"

# Fraction of the disk that stays free for other programs.
_SPARE = 0.05
_BLOCK_BYTES = 2**22
# A process reads at most the copies that it opened last: as many as its sets keep mapped.
_MAX_LEASES = 256
# Copies that this process may read, each as an open file with a shared lock, in the order of their last use.
_leases: OrderedDict[Path, BinaryIO] = OrderedDict()
_leases_lock = threading.Lock()


def node_copy(path: Path, is_sound: Callable[[Path], bool] | None = None) -> Path:
    """Return this node's copy of `path`, fetched if necessary.

    Args:
        path: The original, on shared storage.
        is_sound: Further check that a new copy must pass, after the comparison of digests.

    Returns:
        The copy, or `path` itself if `EVCLIP_RAY_LOCAL` is not set or the copy does not fit on the disk.

    Raises:
        ArtifactError: the copy fails a check.
        OSError: the folder for copies is not writable.
    """
    local = os.environ.get(LOCAL)
    if not local or not path.is_file():
        return path
    status, folder = path.stat(), Path(local).expanduser()
    name = digest([str(path.absolute()), status.st_size, status.st_mtime_ns])
    copy = folder / f"{name}{path.suffix}"
    # The usual case: the copy exists, and the lock of the folder is not needed.
    if _lease(copy, status.st_size):
        return copy
    with _lock(folder):
        # Another process may have fetched it while this one waited for the lock.
        if not _lease(copy, status.st_size):
            if not _fetch(path, copy, status.st_size, is_sound):
                return path
            _lease(copy, status.st_size)
    return copy


def _lease(copy: Path, num_bytes: int) -> bool:
    """Protect a copy from removal while this process may read it; return whether a complete copy exists.

    The lease is a shared `flock` on the open file, which ends with the process, however that ends.
    """
    with _leases_lock:
        stream = _leases.pop(copy, None)
        if stream is None:
            try:
                stream = copy.open("rb")
            except (FileNotFoundError, NotADirectoryError):
                return False
            fcntl.flock(stream, fcntl.LOCK_SH)
        status = os.fstat(stream.fileno())
        # No links: another process removed the file between our opening and our locking it.
        if status.st_nlink == 0 or status.st_size != num_bytes:
            stream.close()
            return False
        # The modification time of a copy is the time of its last use.
        os.utime(stream.fileno())
        _leases[copy] = stream
        while len(_leases) > _MAX_LEASES:
            # Closing the file ends the lease. A map of a copy that is then removed stays valid, because the
            # kernel frees an unlinked file only when nothing uses it any more.
            _leases.popitem(last=False)[1].close()
        return True


def _lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not the trial write of `artifacts.probe_writable`: a full disk must not raise, see `_fetch`.
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        message = f"{error.strerror}; {LOCAL} must name a writable folder for copies"
        raise OSError(error.errno, message, str(folder)) from None
    # One lock per folder: fetches share one network link anyway, and evictions must see all copies.
    return holding(folder / ".lock", f"{folder} is in use")


def _fetch(path: Path, copy: Path, num_bytes: int, is_sound: Callable[[Path], bool] | None) -> bool:
    # Temporary files of killed processes; the lock excludes live ones.
    for stale in copy.parent.glob(".*.*.*"):
        stale.unlink()
    try:
        if _make_space(copy.parent, num_bytes):
            _copy(path, copy, is_sound)
            return True
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
    log.warning("%s: too full for a copy of %s; reading the original", copy.parent, path)
    return False


def _copy(path: Path, copy: Path, is_sound: Callable[[Path], bool] | None) -> None:
    with replacing(copy) as temporary:
        source_digest = hashlib.sha256()
        with path.open("rb") as source, temporary.open("wb") as target:
            while block := source.read(_BLOCK_BYTES):
                source_digest.update(block)
                target.write(block)
        # `file_digest` reads the copy again and returns the first 16 digits of its SHA-256, hence
        # `startswith`.
        identical = source_digest.hexdigest().startswith(file_digest(temporary))
        if not identical or (is_sound is not None and not is_sound(temporary)):
            raise ArtifactError(
                f"{path}: its copy in {copy.parent} is damaged; run again, or prepare the original again"
            )


def _make_space(folder: Path, num_bytes: int) -> bool:
    """Remove unread copies, oldest first, until `num_bytes` fit; return whether they do."""
    # Names that begin with a dot are the lock and unfinished copies.
    candidates = sorted(folder.glob("[!.]*"), key=lambda copy: copy.stat().st_mtime_ns)
    while not (fits := _fits(folder, num_bytes)) and candidates:
        with candidates.pop(0).open("rb") as oldest, contextlib.suppress(BlockingIOError):
            # Fails where a reader holds its shared lock.
            fcntl.flock(oldest, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Path(oldest.name).unlink()
    return fits


def _fits(folder: Path, num_bytes: int) -> bool:
    disk = shutil.disk_usage(folder)
    return disk.free - num_bytes >= _SPARE * disk.total
