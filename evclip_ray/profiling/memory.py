"""Peak memory of a computation."""

import contextlib
import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(run: Callable[[], object], device: torch.device) -> tuple[int, int] | None:
    """Return the memory before `run` and the peak above it, in bytes; None if the system does not report it.

    On a GPU this is the memory of torch's allocator. On a CPU it is the resident memory of this process,
    which should do nothing else and should have executed `run` once before.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return before, torch.cuda.max_memory_allocated(device) - before
    # Reference cycles that are freed during the run would lower its peak.
    gc.collect()
    # glibc keeps freed memory, and a run that reuses it would not raise the peak.
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
    with contextlib.suppress(OSError):
        # 5 resets the peak (VmHWM) to the current resident memory, see proc(5).
        _CLEAR.write_text("5")
        before = _status("VmRSS")
        run()
        return before, max(0, _status("VmHWM") - before)
    return None


def _status(field: str) -> int:
    lines = _STATUS.read_text().splitlines()
    # The file gives kibibytes.
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024
