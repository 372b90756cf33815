"""A training step: the loss of a batch, its gradient, the update of the trained parameters."""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from evclip_ray.data.mixup import Mixed, mix
from evclip_ray.metrics.scoring import autocast
from evclip_ray.models.methods.base import Method, VideoBatch
from evclip_ray.training.distributed import Workers, require_finite, summed
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.optim import make_optimizer

Metrics = dict[str, Any]
"""Metrics of an epoch, by name."""


class TrainingStep:
    """Trains `method`, whose gradients are the mean over `workers`; autocast to `dtype`, or not for None."""

    def __init__(
        self,
        method: Method,
        experiment: ExperimentConfig,
        *,
        workers: Workers,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        self.method, self.experiment, self.workers = method, experiment, workers
        self.device, self.dtype = device, dtype
        self.optimizer = make_optimizer(method.parameters(), experiment.optim)
        self.model = workers.wrap(method, device)

    def __call__(
        self, batch: VideoBatch, *, rate: float, num_videos: int, generator: torch.Generator
    ) -> tuple[dict[str, float], float]:
        """Train on a batch of `num_videos`; return the loss terms and the gradient norm.

        The loss terms are averaged over all workers. `batch`: this worker's part of the videos; `rate`: the
        learning rate. Mixup draws from `generator`.

        Raises:
            Diverged: the loss or its gradient is not finite; nothing is updated.
        """
        assert batch.labels is not None
        # DDP takes the mean over workers; with this share it is the mean over the batch's videos.
        share = len(batch.labels) * self.workers.count / num_videos
        terms = self._losses(batch, generator)
        loss = torch.stack([term.float() for term in terms.values()]).sum() * share
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        limit = self.experiment.optim.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self.method.parameters(), limit if limit else math.inf)
        require_finite(bool(torch.isfinite(loss) and torch.isfinite(norm)), "the loss or its gradient is")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        means = summed(torch.stack([t.detach().float() for t in terms.values()]) * share / self.workers.count)
        return dict(zip(terms, means.tolist(), strict=True)), float(norm)

    def _losses(self, batch: VideoBatch, generator: torch.Generator) -> dict[str, Tensor]:
        labels = batch.labels
        assert labels is not None
        mixed: Mixed | None = None
        if self.experiment.data.augment.mixup and batch.pixels is not None:
            mixed = mix(batch.pixels, alpha=self.experiment.data.augment.mixup, generator=generator)
            batch = dataclasses.replace(batch, pixels=mixed.pixels)
        with autocast(self.device, self.dtype):
            output = self.model(batch)
        terms = self.method.losses(output, labels)
        if mixed is None:
            return terms
        return mixed.loss_terms(terms, self.method.losses(output, labels[mixed.partners]))
