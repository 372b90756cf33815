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
from evclip_ray.training.frozen_cache import needs_pixels
from evclip_ray.training.resources import GpuMemory, ResourceRequest, trials_per_gpu
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

    Raises:
        ValueError: The study sets a number of trials per GPU for groups of workers.
    """
    wanted = space.study.trials_per_gpu
    if request.workers > 1 and request.gpus > 0 and wanted not in ("auto", 1):
        raise ValueError(
            f"study.trials_per_gpu={wanted}: each of the {counted(request.workers, 'worker')} of a trial "
            "needs a whole GPU, because NCCL refuses two of them on one. Set study.trials_per_gpu=auto, or "
            "--workers 1."
        )
    is_free = space.study.gpus is None and request.workers == 1 and request.gpus > 0
    return is_free and wanted != 1


def why_not_shared(space: SearchSpace, request: ResourceRequest) -> str:
    """Return why trials that do not share a GPU do not, for the plan; empty if it is plain."""
    wanted = space.study.trials_per_gpu
    if request.workers > 1 and request.gpus > 0:
        return "each worker has a whole GPU, because NCCL refuses two workers of a trial on one"
    if wanted == "auto" or request.gpus == wanted == 1:
        return ""
    reason = "no machine has a GPU" if space.study.gpus is None else "--gpus-per-worker (study.gpus) is set"
    return f"study.trials_per_gpu={wanted} has no effect, because {reason}"


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
        ValueError: Not even the smallest trial fits on the GPU, or the number that the study sets does not.
    """
    wanted = None if space.study.trials_per_gpu == "auto" else space.study.trials_per_gpu
    points = list(points)
    measured: list[GpuMemory | None] = []
    problems: list[str] = []
    for kind, experiment in extreme_trials(space, points, max).items():
        try:
            measured.append(measure(experiment, classes, request.cpus).memory)
        except torch.OutOfMemoryError as error:
            if wanted is not None:
                raise ValueError(f"study.trials_per_gpu={wanted}: {gpu_fault(error)}") from None
            problems.append(gpu_fault(error) or str(error))
            smallest = extreme_trials(space, points, min).get(kind, experiment)
            if smallest == experiment or not _fits(smallest, classes, request, measure):
                continue
            measured.append(None)
    if problems and not measured:
        raise ValueError(f"no trial of the study fits on a GPU: {problems[0]}")
    if problems:
        # Smaller points may fit, and the trials of the others name the reason themselves.
        log.warning(
            "the largest trial of the study does not fit on a GPU, so that trials do not share one, and the "
            "trials of such points fail: %s",
            problems[0],
        )
        return GpuShare(1)
    memory = max((each for each in measured if each is not None), key=lambda each: each.needed, default=None)
    if memory is None:
        return GpuShare(wanted or 1)
    return GpuShare(trials_per_gpu(request, machines, memory, wanted=wanted), str(memory))


def _fits(
    experiment: ExperimentConfig, classes: Sequence[str], request: ResourceRequest, measure: Measure
) -> bool:
    try:
        measure(experiment, classes, request.cpus)
    except torch.OutOfMemoryError:
        return False
    return True


def extreme_trials(
    space: SearchSpace, points: Iterable[Mapping[str, Any]], choose: Callable[[list[Any]], Any]
) -> dict[tuple[Any, ...], ExperimentConfig]:
    """Return the experiment with the largest or smallest sizes for each backbone, method and video network.

    Args:
        space: Search space.
        points: Combinations of the settings that change frozen results.
        choose: `max` or `min`.
    """
    fixed = flatten(space.fixed)
    found: dict[tuple[Any, ...], ExperimentConfig] = {}
    for point in points:
        extreme = dict(point)
        for axis in space.search:
            if axis.path not in extreme and axis.applies({**fixed, **extreme}):
                extreme[axis.path] = _extreme_value(axis.path, axis.edges, choose)
        try:
            experiment = space.experiment(extreme)
        except ConfigError:
            # A trial that draws this point fails and writes the reason to its folder.
            continue
        encoder = getattr(experiment.method, "video_encoder", None)
        prompts = getattr(experiment.method, "prompts", None)
        kind = (experiment.backbone.name, experiment.method.name, encoder and encoder.name, prompts)
        # Points also differ in their frames, and in the features that are read instead of computed.
        sizes = [_size(each) for each in (found.get(kind), experiment) if each is not None]
        if choose(sizes) == sizes[-1]:
            found[kind] = experiment
    return found


def _extreme_value(path: str, edges: Sequence[Any], choose: Callable[[list[Any]], Any]) -> Any:
    if path == "backbone.activation_checkpointing":
        # Recomputed activations are not kept: true needs less memory.
        return not choose([not value for value in edges])
    numbers = [value for value in edges if isinstance(value, int | float)]
    return choose(numbers) if numbers else edges[0]


def _size(experiment: ExperimentConfig) -> tuple[bool, int, bool]:
    frames = experiment.view.num_frames * experiment.optim.batch_size
    return needs_pixels(experiment), frames, not experiment.backbone.activation_checkpointing
