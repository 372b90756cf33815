"""Training step: loss of a batch, gradient, update of the trained parameters."""

import dataclasses
import math

import torch
from torch import Tensor

from evclip_ray.data.transforms import MixedBatch, mix
from evclip_ray.metrics.scoring import autocast
from evclip_ray.models.batch import VideoBatch
from evclip_ray.models.methods.base import Method
from evclip_ray.training.distributed import Workers, require_finite, summed
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.optim import make_optimizer, set_learning_rate


class TrainingStep:
    """Training steps of a method; gradients are means over the workers.

    Args:
        method: Method to train.
        experiment: Settings.
        workers: Workers of the run.
        device: Device of the method.
        dtype: Type for autocast; None trains in float32.
    """

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
        # The optimiser and DDP hold the same parameters. DDP averages their gradients in place during the
        # backward pass, so the optimiser needs no knowledge of the workers.
        self.model = workers.wrap(method, device)

    def __call__(
        self, batch: VideoBatch, *, rate: float, num_videos: int, generator: torch.Generator
    ) -> tuple[dict[str, float], float]:
        """Train on a batch; return the loss terms, averaged over all workers, and the gradient norm.

        Args:
            batch: This worker's part of the batch's videos.
            rate: Learning rate.
            num_videos: Number of videos in the batch, over all workers.
            generator: Random state for mixup.

        Raises:
            Diverged: The loss or its gradient is not finite. Nothing is updated then.
        """
        assert batch.labels is not None
        # DDP averages over workers. Weighting by this share makes it the mean over the batch's videos.
        share = len(batch.labels) * self.workers.count / num_videos
        terms = self._losses(batch, generator)
        loss = torch.stack([term.float() for term in terms.values()]).sum() * share
        self.optimizer.zero_grad(set_to_none=True)
        # No gradient scaler: bfloat16 has the exponent range of float32, so small gradients do not underflow.
        loss.backward()  # type: ignore[no-untyped-call]
        # DDP has averaged the gradients at this point, so the norm is that of the whole batch on every
        # worker. With an infinite limit the call only measures: PyTorch clamps the factor to 1.
        limit = self.experiment.optim.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self.method.parameters(), limit if limit else math.inf)
        # The loss is that of this worker's videos, so it may be infinite on one worker alone.
        require_finite(bool(torch.isfinite(loss) and torch.isfinite(norm)), "the loss or its gradient is")
        # The rate is set from the step number rather than by a stateful LR scheduler: nothing to save and
        # resume.
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        # share / count is the part of the batch's videos on this worker, so the sum is a mean over the batch.
        means = summed(torch.stack([t.detach().float() for t in terms.values()]) * share / self.workers.count)
        return dict(zip(terms, means.tolist(), strict=True)), float(norm)

    def _losses(self, batch: VideoBatch, generator: torch.Generator) -> dict[str, Tensor]:
        labels = batch.labels
        assert labels is not None
        mixed: MixedBatch | None = None
        if self.experiment.data.augment.mixup and batch.pixels is not None:
            mixed = mix(batch.pixels, alpha=self.experiment.data.augment.mixup, generator=generator)
            batch = dataclasses.replace(batch, pixels=mixed.pixels)
        with autocast(self.device, self.dtype):
            # Only the forward pass goes through the DDP wrapper: it prepares the reduction of the gradients
            # there.
            output = self.model(batch)
        # Outside of autocast, so that the matrix products of a loss stay in float32.
        terms = self.method.losses(output, labels)
        if mixed is None:
            return terms
        return mixed.loss_terms(terms, self.method.losses(output, labels[mixed.partners]))
