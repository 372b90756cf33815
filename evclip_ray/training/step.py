"""Training step: loss of a batch, gradient, update of the trained parameters.

No step waits for the device. Losses and norms stay there, and `EpochSums` reads them once per epoch.
"""

import dataclasses
import math

import torch
from torch import Tensor

from evclip_ray.data.transforms import MixedBatch, mix
from evclip_ray.models.batch import VideoBatch
from evclip_ray.models.layers.gather import without_workers
from evclip_ray.models.methods.base import Method
from evclip_ray.training.compiled import (
    Forward,
    can_compile,
    compiled_forward,
    forward_and_losses,
    give_up,
    is_compiled,
    is_compiler_error,
)
from evclip_ray.training.distributed import Diverged, Workers, summed
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.optim import is_fused, make_optimizer, set_learning_rate
from evclip_ray.training.step_graphs import StepGradients, StepGraphs, may_use_graphs


@dataclasses.dataclass(frozen=True)
class StepResult:
    """Numbers of a training step, as tensors of one number on the device of the method.

    Attributes:
        terms: Loss terms of this worker's videos. Their sum over the workers is the mean over the batch.
        norm: Norm of the gradient before it is clipped, equal on all workers.
        is_finite: Whether this worker's loss and the norm are finite. If not, the step changed no parameter.
    """

    terms: dict[str, Tensor]
    norm: Tensor
    is_finite: Tensor


class TrainingStep:
    """Training steps of a method; gradients are means over the workers.

    Args:
        method: Method to train.
        experiment: Settings.
        workers: Workers of the run.
        device: Device of the method.
        dtype: Type for autocast; None trains in float32.
        num_steps: Steps of the whole run, for `compile: auto` and CUDA graphs.

    Attributes:
        graphs: CUDA graphs of the steps; None for a run that may not use any.

    Raises:
        ConfigError: `compile: on` does not fit the run, see `is_compiled`.
    """

    def __init__(
        self,
        method: Method,
        experiment: ExperimentConfig,
        *,
        workers: Workers,
        device: torch.device,
        dtype: torch.dtype | None,
        num_steps: int = 0,
    ) -> None:
        self.method, self.experiment, self.workers = method, experiment, workers
        self.device, self.dtype = device, dtype
        self.optimizer = make_optimizer(method.parameters(), experiment.optim)
        # The optimiser and DDP hold the same parameters. DDP averages their gradients in place during the
        # backward pass, so the optimiser needs no knowledge of the workers.
        self.model = workers.wrap(method, device)
        self.is_compiled = is_compiled(
            experiment.compile,
            device,
            num_steps=num_steps,
            num_workers=workers.count,
            has_fixed_shapes=method.has_fixed_shapes,
        )
        may_use = may_use_graphs(
            experiment,
            device,
            num_steps=num_steps,
            has_fixed_shapes=method.has_fixed_shapes,
            num_workers=workers.count,
        )
        self.graphs = StepGraphs(self._gradients_of, list(method.parameters())) if may_use else None

    def __call__(
        self, batch: VideoBatch, *, rate: float, num_videos: int, generator: torch.Generator
    ) -> StepResult:
        """Train on a batch. A loss or gradient that is not finite updates nothing.

        Args:
            batch: This worker's part of the batch's videos.
            rate: Learning rate.
            num_videos: Number of videos in the batch, over all workers.
            generator: Random state for mixup.
        """
        assert batch.labels is not None
        part = len(batch.labels) / num_videos
        mixed = None
        if self.experiment.data.augment.mixup and batch.pixels is not None:
            mixed = mix(batch.pixels, alpha=self.experiment.data.augment.mixup, generator=generator)
            batch = dataclasses.replace(batch, pixels=mixed.pixels)
        # A run with graphs has one worker and no mixup.
        gradients = self.graphs(batch) if self.graphs else self._clipped_gradients(batch, mixed, part)
        # The rate is set from the step number rather than by a stateful LR scheduler: nothing to save and
        # resume.
        set_learning_rate(self.optimizer, rate)
        self._update(gradients.is_finite)
        terms = {name: term * part for name, term in gradients.terms.items()}
        return StepResult(terms, gradients.norm, gradients.is_finite)

    def _gradients_of(self, batch: VideoBatch) -> StepGradients:
        """Compute the gradients of a batch that one worker has alone, without mixup."""
        return self._clipped_gradients(batch, None, 1.0)

    def _clipped_gradients(self, batch: VideoBatch, mixed: MixedBatch | None, part: float) -> StepGradients:
        terms, loss = self._gradients(batch, mixed, part)
        # DDP has averaged the gradients at this point, so the norm is that of the whole batch on every
        # worker. With an infinite limit the call only measures: PyTorch clamps the factor to 1.
        limit = self.experiment.optim.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self.method.parameters(), limit if limit else math.inf)
        is_finite = torch.isfinite(loss.detach()) & torch.isfinite(norm)
        # Detached: a graph that stayed would belong to the stream of its capture.
        return StepGradients({name: term.detach() for name, term in terms.items()}, norm, is_finite)

    def gradients_alone(self, batch: VideoBatch) -> None:
        """Compute the gradients of a batch without the other workers, and update nothing. For timing."""
        model, self.model = self.model, self.method
        try:
            # The losses of some methods gather the rows of all workers, which would wait for them.
            with without_workers():
                if self.graphs is None:
                    self._gradients(batch, None, 1.0)
                else:
                    self.graphs(batch)
        finally:
            self.model = model

    def _update(self, is_finite: Tensor) -> None:
        if is_fused(self.optimizer):
            # The kernel reads the flag on the device. If it is 1, parameters and moments stay as they are.
            self.optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif is_finite:
            self.optimizer.step()

    def _gradients(
        self, batch: VideoBatch, mixed: MixedBatch | None, part: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the gradients of all parameters; return the loss terms and the weighted loss."""
        if not (self.is_compiled and can_compile()):
            return self._gradients_by(forward_and_losses, batch, mixed, part)
        try:
            # The compiler is also called in the backward pass, whose code is made at its first use.
            return self._gradients_by(compiled_forward(), batch, mixed, part)
        except Exception as error:
            if not is_compiler_error(error):
                raise
            give_up(error, self.experiment.compile)
        return self._gradients_by(forward_and_losses, batch, mixed, part)

    def _gradients_by(
        self, forward: Forward, batch: VideoBatch, mixed: MixedBatch | None, part: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        assert batch.labels is not None
        output, terms = forward(self.model, self.method, batch, batch.labels, self.device, self.dtype)
        if mixed is not None:
            terms = mixed.loss_terms(terms, self.method.losses(output, batch.labels[mixed.partners]))
        terms = {name: term.float() for name, term in terms.items()}
        # DDP averages over workers. Weighting by this share makes it the mean over the batch's videos.
        loss = torch.stack(list(terms.values())).sum() * (part * self.workers.count)
        self.optimizer.zero_grad(set_to_none=True)
        # No gradient scaler: bfloat16 has the exponent range of float32, so small gradients do not underflow.
        loss.backward()  # type: ignore[no-untyped-call]
        return terms, loss


class EpochSums:
    """Means of an epoch's training steps. They are summed on the device and read once.

    Args:
        num_videos: Number of training videos, over all workers.
        num_steps: Number of steps of the epoch.
        workers: Workers of the run.
    """

    def __init__(self, *, num_videos: int, num_steps: int, workers: Workers) -> None:
        self.num_videos, self.num_steps, self.workers = num_videos, num_steps, workers
        self._names: list[str] = []
        self._sums: Tensor | None = None

    def add(self, result: StepResult, num_videos: int) -> None:
        """Add a step on a batch of `num_videos` videos, over all workers."""
        # Weighted by the size of the batch: the sum over an epoch is the mean over its videos.
        weight = num_videos / self.num_videos
        terms = [term.double() * weight for term in result.terms.values()]
        # The norm is that of all workers, and `summed` adds it once per worker.
        norm = result.norm.double() / (self.num_steps * self.workers.count)
        step = torch.stack([*terms, norm, (~result.is_finite).double()])
        self._names = list(result.terms)
        self._sums = step if self._sums is None else self._sums + step

    def read(self) -> dict[str, float]:
        """Return the mean over videos of each loss term and of their sum, and the mean norm of the gradient.

        All workers must call this together, because they sum their parts.

        Raises:
            Diverged: A loss or its gradient was not finite in a step, on any worker.
        """
        assert self._sums is not None
        *terms, norm, num_failed = summed(self._sums).tolist()
        if num_failed:
            raise Diverged("the loss or its gradient is not finite")
        named = {f"train_{name}": value for name, value in zip(self._names, terms, strict=True)}
        return {"train_loss": sum(terms), **named, "grad_norm": norm}
