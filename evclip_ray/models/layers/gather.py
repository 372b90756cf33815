"""Rows of all workers as one batch, for losses that are not a mean over videos.

Each worker computes the loss of the whole batch; the gradient of the gathered rows is summed over
the workers on its way back, and DistributedDataParallel takes the mean over them. The sum of W
equal losses, weighted by shares that add up to W, over W: the gradient of that one loss.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows: Tensor) -> Tensor:
    """(b, ...) of this worker -> (B, ...) of all workers, in the order of their ranks; differentiable.

    Workers may hold different numbers of rows. Without workers, `rows` itself.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = [torch.empty(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        sizes = [int(count) for count in counts]
        ctx.start, ctx.count = sum(sizes[: dist.get_rank()]), len(rows)
        # all_gather wants equal shapes: short parts are filled up, and cut again.
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.count]
