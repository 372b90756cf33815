"""Arrow files in memory-mapped pages, and what the system is told of them: read ahead, not needed any more.

A set that fits in memory stays in the page cache after its first epoch. Of one that does not, the rows
of the next batches are asked for while this one is computed, and let go when they were read.
"""

import contextlib
import functools
import mmap
import os
from pathlib import Path

import pyarrow as pa

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class MappedFile:
    """An uncompressed Arrow IPC file: `reader` gives its batches as the file's own pages, not a copy.

    Raises:
        OSError: no such file.
        ValueError: it is empty.
        pyarrow.ArrowInvalid: it is not an Arrow file.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            self._pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        whole = pa.py_buffer(self._pages)
        self._address = whole.address
        self.reader = pa.ipc.open_file(whole)

    def ahead(self, address: int, num_bytes: int) -> None:
        """Begin to read these bytes from disk; returns before they are there."""
        self._advise(mmap.MADV_WILLNEED, address, num_bytes)

    def done(self, address: int, num_bytes: int) -> None:
        """Let these bytes go from this process's memory; they are read again when they are looked at."""
        self._advise(mmap.MADV_DONTNEED, address, num_bytes)

    def _advise(self, advice: int, address: int, num_bytes: int) -> None:
        start = address - self._address
        first = start - start % mmap.PAGESIZE
        self._pages.madvise(advice, first, start + num_bytes - first)


@functools.cache
def memory_bytes() -> int:
    """What this process may fill: the machine's memory, or what its container allows."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text(encoding="ascii")))
    return min(limits)
