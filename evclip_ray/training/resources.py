"""How many trials fit, from what each machine has and what a trial needs. Pure arithmetic."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class ResourceRequest:
    """What one worker of a trial needs. `memory`: bytes.

    A trial has `workers` of them; where machines are lost it goes on with `min_workers` (None: all).
    """

    cpus: float
    gpus: float
    memory: float
    workers: int = 1
    min_workers: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.workers:
            raise ValueError(
                f"min_workers must be from 1 to workers, {self.workers}; got {self.fewest}: "
                "lower --min-workers or raise --workers"
            )

    @property
    def fewest(self) -> int:
        """Workers without which a trial waits."""
        return self.workers if self.min_workers is None else self.min_workers

    @property
    def resources(self) -> dict[str, float]:
        """As Ray names them, without the zeros."""
        named = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        return {name: amount for name, amount in named.items() if amount > 0}

    def __str__(self) -> str:
        each = f"{self.cpus:g} CPU, {self.gpus:g} GPU, {self.memory / GIB:.1f} GiB"
        if self.workers == 1:
            return each
        count = f"{self.workers}" if self.fewest == self.workers else f"{self.fewest} to {self.workers}"
        return f"{count} workers of {each}"


def trial_slots(request: ResourceRequest, nodes: Sequence[Mapping[str, float]]) -> int:
    """Trials of which every worker has a place on `nodes` at once."""
    return _workers(request, nodes) // request.workers


def concurrent_trials(request: ResourceRequest, nodes: Sequence[Mapping[str, float]]) -> int:
    """Trials that run at once on `nodes` (each a mapping of Ray resources).

    Workers may spread over nodes; a single worker must fit on one. The scarcest of CPU, GPU and
    memory decides, node by node. Places are counted for whole groups: fewer workers are for a node's
    loss, and two halves of a group train no faster than one after the other. One trial runs as soon as
    its fewest workers fit.

    Raises:
        ValueError: not even one trial fits, with the numbers.
    """
    workers = _workers(request, nodes)
    if workers < request.fewest:
        have = "; ".join(_describe(node) for node in nodes) or "no machine"
        raise ValueError(
            f"a trial needs {request}, which can never be placed: the cluster has {have} "
            f"(room for {workers} of {request.fewest} workers); lower --cpus-per-worker, --gpus-per-worker, "
            "--workers or study.memory_gb, or add machines"
        )
    return max(1, trial_slots(request, nodes))


def decoding_nodes(request: ResourceRequest, nodes: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The ids of the nodes that decode: those with CPUs on which no worker of a trial has a place.

    Empty where there is none, as on one machine: then decoding goes anywhere, before the trials.

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
        # A hair of slack, so that three thirds of a GPU are a GPU.
        (math.floor(node.get(name, 0.0) / amount + 1e-9) for name, amount in request.resources.items()),
        default=0,
    )


def _describe(node: Mapping[str, float]) -> str:
    memory = node.get("memory", 0.0) / GIB
    return f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU, {memory:.1f} GiB"
