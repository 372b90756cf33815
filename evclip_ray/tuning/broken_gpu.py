"""End of a trial's process whose GPU failed: another process, another GPU, or a pause of the study."""

import logging
import subprocess
import sys
import time
from collections.abc import Callable

import ray

from evclip_ray.machine_faults import gpu_fault, lost_gpu_error

log = logging.getLogger(__name__)

_CHECK = "import torch; print(float(torch.ones(8, device='cuda').sum()))"
_LONGEST_CHECK_SECONDS = 120
_LONGEST_WAIT_SECONDS = 1800.0
_POLL_SECONDS = 2.0


def error_for_tune(
    error: Exception, *, gpus: float, on_wait: Callable[[], None], idle_seconds: Callable[[], float]
) -> tuple[RuntimeError, bool]:
    """Return the error of a trial whose process cannot use its GPU, and whether another process may try.

    The driver ends the context of a process for many reasons. A new process then works, unless the GPU has
    failed itself. Ray knows nothing of the failure, and would start the next trials on it. The process
    therefore keeps its share of a failed GPU until another GPU is free. The next trials of the study may take
    every GPU that becomes free, so the wait ends only after half an hour in which none of them finished an
    epoch.

    Args:
        error: Error of the GPU.
        gpus: Share of a GPU that the trial needs.
        on_wait: Called every two seconds of a wait. An exception from it ends the wait.
        idle_seconds: Returns the seconds since a trial of the study last finished an epoch.
    """
    if gpu_works():
        return RuntimeError(gpu_fault(error)), True
    lost = lost_gpu_error(error)
    if num_gpus() <= 1:
        return lost, False
    log.warning("%s; the trial waits for another GPU", lost)
    deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
    while free_gpus() < gpus:
        if time.monotonic() >= deadline:
            idle = idle_seconds()
            if idle >= _LONGEST_WAIT_SECONDS:
                break
            deadline = time.monotonic() + _LONGEST_WAIT_SECONDS - idle
        on_wait()
        time.sleep(_POLL_SECONDS)
    return lost, free_gpus() >= gpus


def gpu_works() -> bool:
    """Return whether a new process can use the GPU of this one."""
    command = [sys.executable, "-c", _CHECK]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LONGEST_CHECK_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    # Other trials may have all of its memory.
    return done.returncode == 0 or "out of memory" in done.stderr


def num_gpus() -> float:
    """Return the number of GPUs of the cluster."""
    return float(ray.cluster_resources().get("GPU", 0))


def free_gpus() -> float:
    """Return the number of GPUs of the cluster that no trial has."""
    return float(ray.available_resources().get("GPU", 0))
