"""How many trials fit, from what each machine has and what a trial needs. Pure arithmetic."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class Need:
    """What one worker of a trial needs. `memory`: bytes."""

    cpus: float
    gpus: float
    memory: float
    workers: int = 1

    @property
    def resources(self) -> dict[str, float]:
        """As Ray names them, without the zeros."""
        named = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        return {name: amount for name, amount in named.items() if amount > 0}

    def __str__(self) -> str:
        each = f"{self.cpus:g} CPU, {self.gpus:g} GPU, {self.memory / GIB:.1f} GiB"
        return f"{self.workers} workers of {each}" if self.workers > 1 else each


def concurrent_trials(need: Need, nodes: Sequence[Mapping[str, float]]) -> int:
    """Trials that run at once on `nodes` (each a mapping of Ray resources).

    Workers may spread over nodes; a single worker must fit on one. The scarcest of CPU, GPU and
    memory decides, node by node.

    Raises:
        ValueError: not even one trial fits, with the numbers.
    """
    workers = sum(_workers_on(need, node) for node in nodes)
    if workers < need.workers:
        have = "; ".join(_describe(node) for node in nodes) or "no machine"
        raise ValueError(
            f"a trial needs {need}, which can never be placed: the cluster has {have} "
            f"(room for {workers} of {need.workers} workers); lower --cpus-per-worker, --gpus-per-worker, "
            "--workers or study.memory_gb, or add machines"
        )
    return workers // need.workers


def _workers_on(need: Need, node: Mapping[str, float]) -> int:
    return min(
        # A hair of slack, so that three thirds of a GPU are a GPU.
        (math.floor(node.get(name, 0.0) / amount + 1e-9) for name, amount in need.resources.items()),
        default=0,
    )


def _describe(node: Mapping[str, float]) -> str:
    memory = node.get("memory", 0.0) / GIB
    return f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU, {memory:.1f} GiB"
