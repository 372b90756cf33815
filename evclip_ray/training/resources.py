"""Number of trials that fit on the machines. Pure arithmetic, without Ray."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from evclip_ray.formatting import counted

GIB = 1024**3

CONTEXT_BYTES = GIB * 3 // 5
"""Memory on a GPU that a process needs besides PyTorch's tensors: context and libraries. Assumed."""
_SAFE_SHARE = 0.9
"""Share of a GPU's memory that trials may fill together. The rest is for fragments of freed memory."""
_MOST_TRIALS = 8
"""Largest number of trials per GPU without a setting. More than 4 were not measured."""


@dataclasses.dataclass(frozen=True)
class GpuMemory:
    """Measured memory of one trial on a GPU.

    Attributes:
        needed: Peak of PyTorch's allocator in bytes.
        total: Memory of the GPU in bytes.
    """

    needed: int
    total: int

    @property
    def fitting(self) -> int:
        """Number of trials whose memory fits on the GPU."""
        return int(_SAFE_SHARE * self.total // (self.needed + CONTEXT_BYTES))

    def __str__(self) -> str:
        return f"a trial needs {(self.needed + CONTEXT_BYTES) / GIB:.1f} of {self.total / GIB:.0f} GiB"


@dataclasses.dataclass(frozen=True)
class ResourceRequest:
    """Resources of a trial.

    Attributes:
        cpus: CPUs of one worker.
        gpus: GPUs of one worker; a fraction shares a GPU.
        memory: Memory of one worker in bytes.
        workers: Training processes of the trial.
        min_workers: Workers with which the trial continues after machines are lost; None waits for all.
    """

    cpus: float
    gpus: float
    memory: float
    workers: int = 1
    min_workers: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.workers:
            raise ValueError(
                f"min_workers must be between 1 and workers ({self.workers}), got {self.fewest}. "
                "Lower --min-workers or raise --workers."
            )
        if self.workers > 1 and 0 < self.gpus < 1:
            raise ValueError(
                f"{counted(self.workers, 'worker')} with {self.gpus:g} GPU each: NCCL refuses "
                "two workers of a run on one GPU. Give --gpus-per-worker 1, or 0 for the CPU."
            )
        if self.gpus > 1 and self.gpus % 1:
            raise ValueError(
                f"--gpus-per-worker {self.gpus:g}: Ray assigns parts of one GPU or whole GPUs. Give a number "
                "of at most 1, or a whole number."
            )

    @property
    def fewest(self) -> int:
        """Smallest number of workers with which the trial runs."""
        return self.workers if self.min_workers is None else self.min_workers

    @property
    def resources(self) -> dict[str, float]:
        """Resources of one worker under Ray's names, without zeros."""
        # Zeros are left out: `_workers_on` divides by the amounts.
        named = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        return {name: amount for name, amount in named.items() if amount > 0}

    def __str__(self) -> str:
        each = f"{self.cpus:g} CPU, {self.gpus:g} GPU, {self.memory / GIB:.1f} GiB"
        if self.workers == 1:
            return each
        fewest = "" if self.fewest == self.workers else f"{self.fewest} to "
        return f"{fewest}{counted(self.workers, 'worker')} of {each}"


def trials_per_gpu(
    request: ResourceRequest,
    nodes: Sequence[Mapping[str, float]],
    memory: GpuMemory,
    *,
    wanted: int | None = None,
) -> int:
    """Return the number of trials that share a GPU.

    >>> request = ResourceRequest(cpus=2, gpus=1, memory=GIB)
    >>> nodes = [{"CPU": 16, "GPU": 2, "memory": 64 * GIB}]
    >>> trials_per_gpu(request, nodes, GpuMemory(needed=10 * GIB, total=80 * GIB))
    4

    Here the memory of the GPU fits 6 trials, and 8 CPUs per GPU fit 4.

    Args:
        request: Resources of one trial with one worker.
        nodes: Ray resources of each node.
        memory: Measured memory of a trial.
        wanted: Number that the user set; None for the largest useful one.

    Raises:
        ValueError: The wanted number does not fit in the memory of the GPU.
    """
    if wanted is not None:
        if memory.fitting < wanted:
            raise ValueError(
                f"{memory} of GPU memory, so {counted(wanted, 'trial', 'does', 'do')} not fit. "
                f"Set study.trials_per_gpu to at most {max(1, memory.fitting)}, or auto."
            )
        return wanted
    hosts = [node for node in nodes if node.get("GPU", 0) > 0]
    others = {"CPU": request.cpus, "memory": request.memory}
    by_host = (
        math.floor(node.get(name, 0.0) / node["GPU"] / amount + 1e-9)
        for node in hosts
        for name, amount in others.items()
        if amount > 0
    )
    # One trial fits in any case: it was measured on the GPU. The share that stays free is for several.
    return max(1, min(memory.fitting, _MOST_TRIALS, *by_host))


def trial_slots(request: ResourceRequest, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return the number of trials whose workers all fit on `nodes` at the same time."""
    # Workers of one trial may be on different nodes, so the sum over nodes is divided, not each node.
    return _workers(request, nodes) // request.workers


def concurrent_trials(request: ResourceRequest, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return the number of trials that run at the same time on `nodes`.

    Workers may spread over nodes, but a single worker must fit on one node. On each node the scarcest of
    CPU, GPU and memory decides. Slots are counted for trials with all their workers: `min_workers` is for
    lost nodes, since two half groups train no faster than two full ones one after the other. At least one
    trial runs as soon as `min_workers` fit.

    Args:
        request: Resources of one trial.
        nodes: Ray resources of each node, such as `{"CPU": 8, "GPU": 1, "memory": 3.2e10}`.

    Raises:
        ValueError: Not even one trial fits.
    """
    workers = _workers(request, nodes)
    if workers < request.fewest:
        available = "; ".join(_describe(node) for node in nodes) or "no machine"
        raise ValueError(
            f"a trial needs {request}, but the cluster has {available}, which fits {workers} of "
            f"{counted(request.fewest, 'worker')}. Lower --cpus-per-worker, --gpus-per-worker, --workers or "
            "the memory of a worker (study.memory_gb, --memory-per-worker of tune), or add machines."
        )
    # No slot for all workers, but `min_workers` fit: one trial then runs with fewer workers.
    return max(1, trial_slots(request, nodes))


def decoding_nodes(request: ResourceRequest, nodes: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the ids of the nodes that decode: those with a CPU on which no worker of a trial fits.

    An empty list, as on one machine, means that decoding runs on any node before the trials start.

    >>> decoding_nodes(ResourceRequest(1, 1, 0), {"a": {"CPU": 8, "GPU": 4}, "b": {"CPU": 8}, "c": {}})
    ['b']
    """
    return [
        name for name, node in nodes.items() if node.get("CPU", 0) >= 1 and not _workers_on(request, node)
    ]


def _workers(request: ResourceRequest, nodes: Sequence[Mapping[str, float]]) -> int:
    return sum(_workers_on(request, node) for node in nodes)


def _workers_on(request: ResourceRequest, node: Mapping[str, float]) -> int:
    return min(
        # The tolerance lets three workers with a third of a GPU share one GPU despite rounding.
        (math.floor(node.get(name, 0.0) / amount + 1e-9) for name, amount in request.resources.items()),
        default=0,
    )


def _describe(node: Mapping[str, float]) -> str:
    memory = node.get("memory", 0.0) / GIB
    return f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU, {memory:.1f} GiB"
