"""Processes that train one run together: ranks, sums, gradients, and the end of a diverged run."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from evclip_ray.locking import building
from evclip_ray.models.methods.base import Method


@dataclasses.dataclass(frozen=True)
class Workers:
    """Position of this process in its group. A run in one process has rank 0 of 1."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> "Workers":
        """Return the group of this process."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @contextlib.contextmanager
    def alone(self, folder: Path) -> Iterator[None]:
        """Reserve a run's folder for this group during the block. Waits for another holder.

        Another process may still write there: one of a killed command that the cluster has not ended yet,
        or one on a node that lost its connection.
        """
        with building([folder] if self.rank == 0 else ()):
            # A barrier: no worker reads the folder before rank 0 holds the lock.
            summed(torch.zeros(1))
            yield

    def wrap(self, method: Method, device: torch.device) -> torch.nn.Module:
        """Return `method`, wrapped so that its gradients are the mean over the workers."""
        if self.count == 1:
            return method
        # `broadcast_buffers` is off: the buffers of methods are constants (class texts, tokens), equal on all
        # workers, and DDP would send them in every forward pass.
        ids = [device.index] if device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(method, device_ids=ids, broadcast_buffers=False)


def summed(values: Tensor) -> Tensor:
    """Return the sum of `values` over the workers, on the CPU."""
    if dist.is_initialized():
        # NCCL reduces tensors on GPUs only; Gloo reduces them on the CPU. all_reduce works in place, hence
        # the clone.
        on_device = values.cuda() if dist.get_backend() == "nccl" else values.clone()
        dist.all_reduce(on_device)
        return on_device.cpu()
    return values.cpu()


class Diverged(ArithmeticError):
    """The loss, its gradient or the logits are NaN or infinite."""


def require_finite(is_finite: bool, subject: str) -> None:
    """Raise on every worker if a value is not finite on any of them. All workers must call this together.

    Args:
        is_finite: Whether the value is finite on this worker.
        subject: Subject and verb of the message, such as "the loss is".

    Raises:
        Diverged: The value is NaN or infinite on at least one worker.
    """
    # All workers must leave the loop together, or the others would wait for this one's gradients.
    if summed(torch.tensor([float(not is_finite)])).item() > 0:
        raise Diverged(f"{subject} not finite")
