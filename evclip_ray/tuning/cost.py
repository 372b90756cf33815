"""Cost of a study in time, device-hours and money, from one measured step. Pure arithmetic."""

import dataclasses
import math

from evclip_ray.formatting import counted, duration, percent
from evclip_ray.profiling.step_time import StepCost
from evclip_ray.training.matrix_rate import flop_rate
from evclip_ray.training.resources import ResourceRequest


@dataclasses.dataclass(frozen=True)
class StudyCost:
    """Cost of a study without early stopping, and of the frozen work that its trials share.

    Attributes:
        step: Measured training step.
        request: Resources of one trial.
        epochs: Epochs of a trial.
        steps_per_epoch: Optimiser steps of an epoch.
        val_videos: Validation videos.
        frozen_views: Views that the frozen networks process once, by field.
        trials: Number of trials; infinite if only the time limits them.
        concurrent: Trials at the same time.
        price: Price of one device for one hour, in any currency.
    """

    step: StepCost
    request: ResourceRequest
    epochs: int
    steps_per_epoch: int
    val_videos: int
    frozen_views: dict[str, int]
    trials: float
    concurrent: int
    price: float | None = None

    @property
    def epoch_seconds(self) -> float:
        """Duration of an epoch: its steps and its validation."""
        return self.steps_per_epoch * self.step.seconds + self.val_videos * self.step.scoring

    @property
    def trial_seconds(self) -> float:
        """Duration of a trial that is not stopped early."""
        return self.epochs * self.epoch_seconds

    @property
    def once_seconds(self) -> float:
        """Duration of the frozen work on all views, before the first trial."""
        return sum(views * self.step.frozen.get(field, 0.0) for field, views in self.frozen_views.items())

    def trials_within(self, seconds: float) -> int:
        """Return the number of complete trials that fit in a time, after the frozen work."""
        # Only complete rounds count, with `concurrent` trials each.
        remaining = max(0.0, seconds - self.once_seconds)
        return self.concurrent * math.floor(remaining / self.trial_seconds)

    def lines(self, time_budget: float | None = None) -> list[tuple[str, str]]:
        """Return rows of (heading, text) for display.

        Args:
            time_budget: Time limit of the study in seconds, or None.
        """
        step = self.step
        weights = ", ".join(f"{part} {origin}" for part, origin in step.weights.items())
        cached = f"; {' and '.join(step.kept)} read from disk" if step.kept else ""
        step_text = (
            f"{step.seconds:.3g} s on this machine's {step.device}, {step.flop / 1e9:.3g} GFLOP{cached}"
        )
        epoch_text = f"{counted(self.steps_per_epoch, 'step')}, {counted(self.val_videos, 'video')} validated"
        rows = [
            ("trained", f"{counted(step.num_trainable, 'parameter')}; frozen weights: {weights}"),
            ("a step", step_text),
            *self._speed(),
            ("an epoch", f"{duration(self.epoch_seconds)}: {epoch_text}"),
        ]
        if self.frozen_views:
            views = ", ".join(
                f"{field} of {counted(count, 'view')}" for field, count in self.frozen_views.items()
            )
            rows.append(("once", f"{views}: {self._worth(self.once_seconds, shared=True)}"))
        rows.append(("a trial", self._worth(self.trial_seconds)))
        if math.isfinite(self.trials):
            rows.append(("at most", self._total()))
        if time_budget is not None:
            fit = min(self.trials, self.trials_within(time_budget))
            rows.append(
                (
                    "in time",
                    f"{duration(time_budget)}: about {counted(fit, 'trial')} if none is stopped early",
                )
            )
        return rows

    def _speed(self) -> list[tuple[str, str]]:
        step = self.step
        if step.rate is None or step.matrix_share is None:
            return []
        return [
            (
                "speed",
                f"{flop_rate(step.flop / step.seconds)}, {percent(step.matrix_share)} of the matrix rate "
                f"({step.rate})",
            ),
            (
                "input",
                f"{percent(step.wait_share)} of a step, without the disk; {percent(1 - step.wait_share)} of "
                f"the bare model's {step.videos / step.seconds:.3g} videos/s remain",
            ),
        ]

    def _total(self) -> str:
        steps = int(self.trials) * self.epochs * self.steps_per_epoch
        # The last round may be partly empty, but it takes as long as the others.
        rounds = math.ceil(self.trials / max(1, self.concurrent))
        wall = self.once_seconds + rounds * self.trial_seconds
        hours = self._hours(self.once_seconds, shared=True) + self.trials * self._hours(self.trial_seconds)
        return (
            f"{counted(steps, 'step')}, {steps * self.step.flop / 1e15:.3g} PFLOP, about {duration(wall)}, "
            f"{self._paid(hours)} if no trial is stopped early"
        )

    def _worth(self, seconds: float, *, shared: bool = False) -> str:
        return f"{duration(seconds)}, {self._paid(self._hours(seconds, shared=shared))}"

    def _hours(self, seconds: float, *, shared: bool = False) -> float:
        # A GPU trial is priced by its GPUs alone, since clouds rent them with their CPUs.
        devices = self.request.gpus or self.request.cpus
        # One process does the shared work, on a whole device.
        return seconds / 3600 * (max(1.0, devices) if shared else devices * self.request.workers)

    def _paid(self, hours: float) -> str:
        text = f"{hours:.3g} {'GPU' if self.request.gpus else 'CPU'}-hours"
        return text if self.price is None else f"{text} ({hours * self.price:.2f} at {self.price:g} per hour)"
