"""End of a trial's process whose GPU failed: another process, another GPU, or a pause of the study."""

import subprocess
import sys

import ray

from evclip_ray.machine_faults import gpu_fault, lost_gpu_error

_CHECK = "import torch; print(float(torch.ones(8, device='cuda').sum()))"
_LONGEST_CHECK_SECONDS = 120


def error_for_tune(error: Exception) -> tuple[RuntimeError, bool]:
    """Return the error of a trial whose process cannot use its GPU, and whether another process may try.

    The driver ends the context of a process for many reasons. A new process then works, unless the GPU has
    failed itself.

    Args:
        error: Error of the GPU.
    """
    if gpu_works():
        return RuntimeError(gpu_fault(error)), True
    # Ray knows nothing of the failure, and may choose the same GPU again.
    return lost_gpu_error(error), num_gpus() > 1


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
