"""The group of processes that train one run together: who one is in it, sums over it, its gradients."""

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
    """A process's `rank` among `count`; a run by itself is the first of one."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> "Workers":
        """The group that this process is in."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @contextlib.contextmanager
    def alone(self, folder: Path) -> Iterator[None]:
        """Have a run's folder to this group for the time of the block; waits for whoever has it.

        A process that was lost sight of may be writing there still: one of a killed command, which its
        cluster has not ended yet, or one on a node that is cut off.
        """
        with building([folder] if self.rank == 0 else ()):
            summed(torch.zeros(1))  # nobody reads before the first one has it
            yield

    def wrap(self, method: Method, device: torch.device) -> torch.nn.Module:
        """`method`, its gradients the mean over the workers where there are several."""
        if self.count == 1:
            return method
        ids = [device.index] if device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(method, device_ids=ids, broadcast_buffers=False)


def summed(values: Tensor) -> Tensor:
    """The sum of `values` over the workers, on the CPU."""
    if dist.is_initialized():
        on_device = values.cuda() if dist.get_backend() == "nccl" else values.clone()
        dist.all_reduce(on_device)
        return on_device.cpu()
    return values.cpu()
