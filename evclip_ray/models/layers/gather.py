"""Gathering of rows from all workers, for losses that are not a mean over videos.

Each of W workers computes the loss of the whole batch, weighted by its share of the videos; the shares add up
to W. The backward pass sums the gradients of the gathered rows over the workers, and DistributedDataParallel
averages over them. The result is the gradient of the loss of the whole batch.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_is_alone: contextvars.ContextVar[bool] = contextvars.ContextVar("is_alone", default=False)


@contextlib.contextmanager
def without_workers() -> Iterator[None]:
    """Gather no rows inside the block, for a step that the other workers do not take."""
    token = _is_alone.set(True)
    try:
        yield
    finally:
        _is_alone.reset(token)


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all workers, (B, ...), in the order of their ranks; differentiable.

    Args:
        rows: (b, ...) of this worker; b may differ between workers. Returned as it is without workers.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1 or _is_alone.get():
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        # Parts may differ by one row, so their lengths are exchanged first.
        counts = [torch.empty(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        sizes = [int(count) for count in counts]
        ctx.start, ctx.count = sum(sizes[: dist.get_rank()]), len(rows)
        # all_gather needs equal shapes: shorter parts are padded here and cut below.
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Each worker has the gradient of its own copy of the loss. all_reduce works in place, and autograd
        # may still use the given tensor, hence the clone.
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.count]
