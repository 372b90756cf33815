"""Further attempts of a trial that ran out of memory on a GPU that it shares with other trials.

The number of trials per GPU follows from one measured trial. Another point may need more memory, or freed
memory may be too fragmented. Such a trial waits for a larger share of the memory, and then for the whole GPU,
and goes on from its last epoch. One trial per GPU waits at a time, so that two of them do not take the free
memory from each other.
"""

import contextlib
import gc
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from filelock import Timeout

from evclip_ray.formatting import binary_size
from evclip_ray.locking import holder, holding
from evclip_ray.training import step_graphs

log = logging.getLogger(__name__)

_MARGIN = 1.2
"""Free memory to wait for, relative to what the trial had when it ran out."""
_ALONE = 0.9
"""Share of the memory of a GPU that is free for a trial if no other one is on it."""
_LONGEST_WAIT_SECONDS = 1800.0
_POLL_SECONDS = 2.0


def train_in_turns(
    train: Callable[[], None], *, is_shared: bool, on_wait: Callable[[], None] = lambda: None
) -> None:
    """Run a training that resumes from its last checkpoint, again if a shared GPU had no memory left.

    Args:
        train: The training.
        is_shared: Whether other trials may use the same GPU.
        on_wait: Called every two seconds of a wait. An exception from it ends the wait.

    Raises:
        torch.OutOfMemoryError: The memory of the whole GPU did not suffice, without CUDA graphs.
    """
    try:
        train()
        return
    except torch.OutOfMemoryError:
        if not is_shared and not step_graphs.were_used():
            raise
    # Outside of the handler: its traceback holds the tensors of the failed step.
    alone = int(_ALONE * total_bytes())
    # A trial that had most of the GPU waits until it is alone.
    larger = min(int(_MARGIN * reserved_bytes()), alone)
    # A graph keeps the memory of a step.
    step_graphs.forbid("an attempt on this GPU ran out of memory")
    if not is_shared:
        log.warning("the memory of the GPU is used up; this trial goes on without CUDA graphs")
        release_gpu_memory()
        train()
        return
    with _turn(on_wait):
        if larger < alone:
            _wait(larger, on_wait)
            try:
                train()
                return
            except torch.OutOfMemoryError:
                # Other trials have started meanwhile, or it needs still more.
                pass
        _wait(alone, on_wait)
        train()


@contextlib.contextmanager
def _turn(on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the right to wait for memory of the GPU. Its memory is free for others meanwhile."""
    release_gpu_memory()
    path, is_silent = _lock_file(), True
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(holding(path, "", wait=False))
                break
            except Timeout:
                if is_silent:
                    log.warning(
                        "another trial waits for memory of the GPU (%s); waiting for it", holder(path)
                    )
                is_silent = False
                _pause(on_wait)
        yield


def _wait(needed: int, on_wait: Callable[[], None]) -> None:
    """Wait until some bytes of the GPU are free, at most half an hour."""
    release_gpu_memory()
    log.warning(
        "the memory of the GPU is used up by the trials that share it; this trial waits until %s are free",
        binary_size(needed),
    )
    deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
    while free_bytes() < needed and time.monotonic() < deadline:
        _pause(on_wait)


def _pause(on_wait: Callable[[], None]) -> None:
    on_wait()
    time.sleep(_POLL_SECONDS)


def release_gpu_memory() -> None:
    """Return freed memory to the GPU, for other processes. PyTorch's allocator keeps it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def reserved_bytes() -> int:
    """Return the largest memory of this process's allocator on the GPU since the last release."""
    return torch.cuda.max_memory_reserved()


def free_bytes() -> int:
    """Return the free memory of the GPU, with what this process has reserved."""
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()


def total_bytes() -> int:
    """Return the memory of the GPU."""
    return torch.cuda.mem_get_info()[1]


def _lock_file() -> Path:
    # Trials of several studies may share a GPU, so the file does not lie in a study. In the folder of all
    # users, Linux opens files of the same user only.
    card = torch.cuda.get_device_properties().uuid if torch.cuda.is_available() else "none"
    return Path(tempfile.gettempdir()) / f"evclip_ray-gpu-{os.getuid()}-{card}.lock"
