"""Number of trials that share a GPU, from the measured memory of the largest trial of a study."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from evclip_ray.config import ConfigError, flatten
from evclip_ray.formatting import counted
from evclip_ray.machine_faults import gpu_fault
from evclip_ray.profiling.step_time import StepCost
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.resources import ResourceRequest, trials_per_gpu
from evclip_ray.tuning.search_space import SearchSpace

log = logging.getLogger(__name__)

Measure = Callable[[ExperimentConfig, Sequence[str], float], StepCost]
"""Measurement of a step on a GPU, given the experiment, the classes and the CPUs of a trial."""


@dataclasses.dataclass(frozen=True)
class GpuShare:
    """Trials that share a GPU.

    Attributes:
        count: Number of trials.
        reason: Measured memory of a trial; empty if nothing was measured.
    """

    count: int
    reason: str = ""

    def __str__(self) -> str:
        because = f" ({self.reason} of GPU memory)" if self.reason else ""
        return f"{counted(self.count, 'trial', 'shares', 'share')} a GPU{because}"

    def apply(self, request: ResourceRequest) -> ResourceRequest:
        """Return the resources of a trial that has its share of a GPU."""
        # Ray counts GPUs in steps of 1/10,000. Rounded down, so that three trials with a third each fit.
        return dataclasses.replace(request, gpus=math.floor(1e4 / self.count) / 1e4)


def may_share(space: SearchSpace, request: ResourceRequest) -> bool:
    """Return whether the trials of a study may share a GPU.

    They do not if the study sets the GPUs of a worker or trains on groups of workers, or without a GPU.
    """
    is_free = space.study.gpus is None and request.workers == 1 and request.gpus > 0
    return is_free and space.study.trials_per_gpu != 1


def gpu_share(
    space: SearchSpace,
    request: ResourceRequest,
    machines: Sequence[Mapping[str, float]],
    *,
    points: Iterable[Mapping[str, Any]],
    classes: Sequence[str],
    measure: Measure,
) -> GpuShare:
    """Measure the largest trials of a study and return how many share a GPU.

    Args:
        space: Search space.
        request: Resources of one trial on a whole GPU.
        machines: Ray resources of each machine.
        points: Combinations of the settings that change frozen results.
        classes: Names of the classes.
        measure: Measurement of a step on a GPU.

    Raises:
        ValueError: The number of trials that the study sets does not fit on the GPU.
    """
    wanted = None if space.study.trials_per_gpu == "auto" else space.study.trials_per_gpu
    try:
        measured = [
            measure(experiment, classes, request.cpus).memory for experiment in largest_trials(space, points)
        ]
    except torch.OutOfMemoryError as error:
        if wanted is not None:
            raise ValueError(f"study.trials_per_gpu={wanted}: {gpu_fault(error)}") from None
        # Smaller points may fit, and the trials of the others name the reason themselves.
        log.warning(
            "the largest trial of the study does not fit in the memory of a GPU, so that trials do not share "
            "one, and the trials of such points fail. Lower optim.batch_size or set "
            "backbone.activation_checkpointing=true"
        )
        return GpuShare(1)
    memory = max((each for each in measured if each is not None), key=lambda each: each.needed, default=None)
    if memory is None:
        return GpuShare(1)
    return GpuShare(trials_per_gpu(request, machines, memory, wanted=wanted), str(memory))


def largest_trials(space: SearchSpace, points: Iterable[Mapping[str, Any]]) -> list[ExperimentConfig]:
    """Return the experiment with the largest sizes for each backbone, method and video network.

    Args:
        space: Search space.
        points: Combinations of the settings that change frozen results.
    """
    fixed, found = flatten(space.fixed), {}
    for point in points:
        largest = dict(point)
        for axis in space.search:
            if axis.path not in largest and axis.applies({**fixed, **largest}):
                numbers = [value for value in axis.edges if isinstance(value, int | float)]
                largest[axis.path] = max(numbers) if numbers else axis.edges[0]
        try:
            experiment = space.experiment(largest)
        except ConfigError:
            # A trial that draws this point fails and writes the reason to its folder.
            continue
        encoder = getattr(experiment.method, "video_encoder", None)
        prompts = getattr(experiment.method, "prompts", None)
        found[experiment.backbone.name, experiment.method.name, encoder and encoder.name, prompts] = (
            experiment
        )
    return list(found.values())
