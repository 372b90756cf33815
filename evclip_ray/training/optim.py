"""AdamW over the adapter, and the learning rate of every step."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from evclip_ray.training.experiment import OptimConfig


def learning_rate(step: int, *, steps_per_epoch: int, optim: OptimConfig) -> float:
    """The learning rate of optimiser step `step` (from 0).

    `cosine_by_step` (ours): linear from `warmup_lr` to `lr` over the warm-up, then
    lr (1 + cos(pi p)) / 2 with p the fraction done of what remains; it ends at 0.

    `cosine_by_epoch` (published EV-CLIP): `warmup_lr` as a constant during the warm-up epochs W,
    then lr (1 + cos(pi (e - W) / epochs)) / 2 in epoch e; the last epochs of the curve are cut off
    by the warm-up, as they are in the published runs.
    """
    if optim.schedule == "cosine_by_epoch":
        epoch = step // steps_per_epoch
        if epoch < optim.warmup_epochs:
            return optim.warmup_lr
        return optim.lr * (1 + math.cos(math.pi * (epoch - optim.warmup_epochs) / optim.epochs)) / 2
    total = steps_per_epoch * optim.epochs
    warmup = min(round(optim.warmup_epochs * steps_per_epoch), total - 1)
    if step < warmup:
        return optim.warmup_lr + (optim.lr - optim.warmup_lr) * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return optim.lr * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(parameters: Iterable[nn.Parameter], optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW (0.9, 0.999); weight decay on every trained tensor, as published."""
    return torch.optim.AdamW(
        list(parameters), lr=optim.lr, betas=(0.9, 0.999), weight_decay=optim.weight_decay
    )
