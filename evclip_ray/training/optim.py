"""AdamW over the adapter, and the learning rate of each step."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from evclip_ray.training.experiment import OptimConfig

_FACTOR = "lr_factor"
"""Key of a parameter group: factor of its learning rate."""


def learning_rate(step: int, *, steps_per_epoch: int, optim: OptimConfig) -> float:
    """Return the learning rate of optimiser step `step`.

    `cosine_by_step` (ours) rises linearly from `warmup_lr` to `lr` during the warm-up, then follows

        lr (1 + cos(pi p)) / 2

    where
        p    share of the steps after the warm-up that are done, 0 to 1; the rate ends at 0.

    `cosine_by_epoch` (published EV-CLIP) stays at `warmup_lr` during the warm-up, then follows

        lr (1 + cos(pi (e - W) / epochs)) / 2

    where
        e    epoch, from 0
        W    number of warm-up epochs. The curve is shifted by W and cut off at the end, as in the
             published runs, so that the rate does not reach 0.

    Args:
        step: Optimiser step, from 0.
        steps_per_epoch: Optimiser steps in one epoch.
        optim: Settings of the schedule.
    """
    if optim.schedule == "cosine_by_epoch":
        epoch = step // steps_per_epoch
        if epoch < optim.warmup_epochs:
            return optim.warmup_lr
        return optim.lr * (1 + math.cos(math.pi * (epoch - optim.warmup_epochs) / optim.epochs)) / 2
    total = steps_per_epoch * optim.epochs
    # At least one step is left after the warm-up, also for a run that is shorter than its warm-up.
    warmup = min(round(optim.warmup_epochs * steps_per_epoch), total - 1)
    if step < warmup:
        # step + 1: with `warmup_lr` 0 the first step would otherwise change nothing.
        return optim.warmup_lr + (optim.lr - optim.warmup_lr) * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return optim.lr * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(parameters: Iterable[nn.Parameter], optim: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW with betas (0.9, 0.999) and weight decay on every trained tensor, as published.

    With `scalar_lr_factor` f other than 1, tensors of a single number form a group of their own, whose
    learning rate is f times that of the others and whose weight decay is w / f.

    Args:
        parameters: Parameters of the method.
        optim: Settings.
    """
    # Biases, norms and scales decay too. Most recipes exclude them; the published code does not.
    trained, factor = list(parameters), optim.scalar_lr_factor
    groups: list[dict[str, Any]] = [{"params": trained}]
    scalars = [parameter for parameter in trained if parameter.ndim == 0]
    if factor != 1 and scalars:
        # AdamW shrinks a tensor by rate x decay per step. With a decay of w / f, scalars shrink as they do
        # without a factor; at f = 30 they would otherwise lose a third of their value in a short training.
        groups = [
            {"params": [parameter for parameter in trained if parameter.ndim > 0]},
            {"params": scalars, _FACTOR: factor, "weight_decay": optim.weight_decay / factor},
        ]
    # One kernel for all tensors on a GPU. The CPU keeps the loop over tensors: a fused step rounds otherwise.
    fused = runs_fused(trained)
    optimizer = torch.optim.AdamW(
        groups, lr=optim.lr, betas=(0.9, 0.999), weight_decay=optim.weight_decay, fused=fused
    )
    set_learning_rate(optimizer, optim.lr)
    return optimizer


def runs_fused(parameters: Iterable[nn.Parameter]) -> bool:
    """Return whether AdamW updates these parameters in one kernel: those on a GPU."""
    return all(parameter.is_cuda for parameter in parameters)


def is_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimiser updates all tensors in one kernel, with step counts on the device."""
    return bool(optimizer.param_groups[0]["fused"])


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step; a group of scalars gets its multiple.

    Args:
        optimizer: Optimiser from `make_optimizer`.
        rate: Learning rate of tensors with more than one number.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_FACTOR, 1.0)
