"""Memory-mapped Arrow files and the advice to the kernel about their pages: prefetch, release.

A set that fits in memory stays in the page cache after its first epoch. For a larger set, the rows of the
next batches are prefetched while the current batch is computed, and are released after they were read.
"""

import contextlib
import functools
import mmap
import os
from pathlib import Path

import pyarrow as pa

# The memory limit of a container: cgroup version 2, then version 1.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class MemoryMap:
    """An uncompressed Arrow IPC file whose `reader` returns batches as the file's own pages, not as copies.

    Raises:
        OSError: the file does not exist.
        ValueError: the file is empty.
        pyarrow.ArrowInvalid: it is not an Arrow file.
    """

    def __init__(self, path: Path) -> None:
        # Python's mmap, because pyarrow's memory maps have no madvise.
        with path.open("rb") as stream:
            self._pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        # This buffer copies nothing, and each array that is cut from it keeps the map alive.
        whole = pa.py_buffer(self._pages)
        self._address = whole.address
        self.reader = pa.ipc.open_file(whole)

    def prefetch(self, address: int, num_bytes: int) -> None:
        """Start reading these bytes from disk and return at once."""
        # The kernel starts the reads and returns, so the disk works while this process computes.
        self._advise(mmap.MADV_WILLNEED, address, num_bytes)

    def release(self, address: int, num_bytes: int) -> None:
        """Drop these bytes from this process's memory; a later access reads them again."""
        # For a map of a file, the kernel only removes the pages from the page table of this process. They
        # stay in the page cache while memory suffices, so a later access often needs no disk.
        self._advise(mmap.MADV_DONTNEED, address, num_bytes)

    def _advise(self, advice: int, address: int, num_bytes: int) -> None:
        # madvise takes whole pages, from a multiple of the page size.
        start = address - self._address
        # The first page may belong to the previous row too. Advice never changes content, so that row costs
        # one more page fault at most.
        first = start - start % mmap.PAGESIZE
        self._pages.madvise(advice, first, start + num_bytes - first)


@functools.cache
def memory_bytes() -> int:
    """Return the memory that this process may fill: the machine's, or the limit of its container."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        # Without a limit the file is absent or holds the word "max".
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text(encoding="ascii")))
    return min(limits)
