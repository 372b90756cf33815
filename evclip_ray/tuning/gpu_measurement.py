"""Step of a trial, measured on a GPU of the cluster before the trials start."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import ray

from evclip_ray.profiling.step_time import StepCost, measure_step
from evclip_ray.progress import stage
from evclip_ray.training.experiment import ExperimentConfig

_MEASURE_SECONDS = 1800
"""Limit of a measurement, with the start of a machine and the download of weights."""


def kinds_of_gpus(machines: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the kinds of accelerators of a cluster, which Ray lists among the resources of a machine."""
    return sorted({name for machine in machines for name in machine if name.startswith("accelerator_type:")})


def measure_on_gpu(
    experiment: ExperimentConfig, classes: Sequence[str], cpus: float, *, cache: Path | None = None
) -> StepCost:
    """Measure a step in a process of its own on a node with a GPU, whose memory it frees by its end.

    No trial runs on the GPU yet, so that its matrix rate is measured and stored as well.

    Args:
        experiment: Experiment of a trial.
        classes: Names of the classes.
        cpus: CPUs of a trial.
        cache: Cache folder, for the matrix rate.

    Raises:
        ValueError: No GPU was free, or the step did not end, within half an hour.
    """
    task = ray.remote(num_gpus=1, num_cpus=1, max_calls=1)(measure_step)
    running = task.remote(experiment, list(classes), cpus=cpus, cache=cache)
    with stage("measuring the memory of a trial on the GPU"):
        try:
            cost: StepCost = ray.get(running, timeout=_MEASURE_SECONDS)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(running, force=True)
            raise ValueError(
                f"no step was measured on a GPU within {_MEASURE_SECONDS // 60} minutes: another job of this "
                "Ray has all GPUs, or a GPU hangs (see nvidia-smi). --gpus-per-worker 1 measures nothing."
            ) from None
        except ray.exceptions.RayTaskError as error:
            # Without Ray's wrapper: the caller knows the cause, and its text is one line.
            raise error.cause from None
    return cost
