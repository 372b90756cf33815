"""Status of a running cluster: nodes, running actors and tasks, resources in use, object store."""

import collections
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.state import list_actors, list_tasks

from evclip_ray.config import ConfigError
from evclip_ray.formatting import counted
from evclip_ray.ray_internals import HEAD_RESOURCE, free_resources
from evclip_ray.training.run_registry import run_of

GIB = 1024**3
# Ray returns 100 entries by default and drops the others.
_LIMIT = 1000


@dataclasses.dataclass(frozen=True)
class NodeUse:
    """Resources of a node as (in use, total). `memory` and `store` (the object store) are in bytes."""

    name: str
    is_head: bool
    cpus: tuple[float, float]
    gpus: tuple[float, float]
    memory: tuple[float, float]
    store: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Work:
    """Running actors or tasks of one kind on one node, with the sum of their resources.

    `trains` names the run that they train and is empty for other work.
    """

    kind: str
    name: str
    node: str
    count: int
    cpus: float
    gpus: float
    trains: str = ""


@dataclasses.dataclass(frozen=True)
class ClusterStatus:
    """Nodes and work of a cluster at one moment."""

    nodes: list[NodeUse]
    work: list[Work]

    @property
    def store_share(self) -> float:
        """Fill level of the fullest object store, 0 to 1. Near 1 Ray spills objects to disk."""
        return max(
            (used / total for used, total in (node.store for node in self.nodes) if total), default=0.0
        )


def cluster_status() -> ClusterStatus:
    """Return the status of the connected cluster. Needs its dashboard."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    free = free_resources()
    names = {node["NodeID"]: node_name(node) for node in alive}
    nodes = [_use(node, free.get(node["NodeID"], {})) for node in alive]
    return ClusterStatus(sorted(nodes, key=lambda node: (not node.is_head, node.name)), _work(names))


def wait_for_nodes(count: int, *, seconds: float) -> None:
    """Wait until `count` nodes are up.

    Raises:
        ConfigError: Fewer nodes are up after `seconds`.
    """
    end = time.monotonic() + seconds
    while (up := sum(node["Alive"] for node in ray.nodes())) < count:
        if time.monotonic() > end:
            raise ConfigError(
                f"{up} of {counted(count, 'node')} {'is' if up == 1 else 'are'} up after {seconds:.0f} s; "
                f"see the logs of the missing nodes"
            )
        time.sleep(1)


def node_name(node: Mapping[str, Any]) -> str:
    """Return address and short id of a node. The address alone is ambiguous for nodes on one machine."""
    return f"{node['NodeManagerAddress']} {node['NodeID'][:6]}"


def _use(node: Mapping[str, Any], free: Mapping[str, float]) -> NodeUse:
    total = node["Resources"]

    def used(name: str) -> tuple[float, float]:
        return total.get(name, 0.0) - free.get(name, 0.0), total.get(name, 0.0)

    return NodeUse(
        node_name(node),
        HEAD_RESOURCE in total,
        used("CPU"),
        used("GPU"),
        used("memory"),
        used("object_store_memory"),
    )


def _work(names: Mapping[str, str]) -> list[Work]:
    # The explicit address matters if several clusters run on this machine.
    address = ray.get_runtime_context().gcs_address
    # `detail=True` adds the resources of an actor, which the plain list lacks.
    actors = list_actors(address, filters=[("state", "=", "ALIVE")], detail=True, limit=_LIMIT)
    tasks = list_tasks(address, filters=[("state", "=", "RUNNING")], detail=True, limit=_LIMIT)
    counts: collections.Counter[tuple[str, str, str, str, float, float]] = collections.Counter()
    for actor in actors:
        node, cpus, gpus = _node_and_resources(actor, names)
        # Actors without resources only coordinate, such as the queue of shards.
        if cpus or gpus:
            name = actor.repr_name or actor.class_name
            counts["actor", name, run_of(actor.actor_id), node, cpus, gpus] += 1
    for task in tasks:
        # Tasks of an actor use the resources of the actor, which are counted above.
        if task.type == "NORMAL_TASK":
            counts["task", task.name, "", *_node_and_resources(task, names)] += 1
    return [
        Work(kind, name, node, count, cpus * count, gpus * count, trains)
        for (kind, name, trains, node, cpus, gpus), count in sorted(counts.items())
    ]


def _node_and_resources(work: Any, names: Mapping[str, str]) -> tuple[str, float, float]:
    # In a placement group the name of a resource includes the group: CPU_group_0_1234.
    required = work.required_resources or {}
    cpus, gpus = (
        max((amount for key, amount in required.items() if key.split("_group_")[0] == name), default=0.0)
        for name in ("CPU", "GPU")
    )
    return names.get(work.node_id or "", "?"), cpus, gpus
