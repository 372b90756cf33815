"""Selection of the cluster nodes that decode videos, and checks of a node."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evclip_ray.data import storage
from evclip_ray.data.shards.format import ShardJob
from evclip_ray.data.storage import Place, StorageError

_LABEL = "ray.io/node-id"


def restrict_to(nodes: Sequence[str]) -> dict[str, Any]:
    """Return the Ray options that restrict an operator's tasks to these nodes; none if `nodes` is empty.

    Tasks wait while the nodes are busy. Ray's own `fallback_strategy` does not wait: it prefers an idle node
    outside the list to a busy one inside. When the last listed node dies, Ray raises TaskUnschedulableError.

    >>> restrict_to(["a", "b"])
    {'label_selector': {'ray.io/node-id': 'in(a,b)'}}
    """
    return {"label_selector": {_LABEL: f"in({','.join(nodes)})"}} if nodes else {}


def count_cpus(nodes: Sequence[str]) -> int:
    """Return the number of CPUs of these nodes, or of all if `nodes` is empty.

    It is at least 1, because an autoscaling cluster may grow from no node at all.
    """
    import ray

    # `ray.nodes` also lists the nodes that died.
    resources = [n["Resources"] for n in ray.nodes() if n["Alive"] and (not nodes or n["NodeID"] in nodes)]
    return max(1, int(sum(node.get("CPU", 0) for node in resources)))


def require_ray(what: str) -> None:
    """Check that this process can prepare `what` on Ray, before Ray raises a long trace of its own.

    Raises:
        ValueError: Ray is not started, or this process is connected through ray://.
    """
    import ray
    from ray.util import client

    if not ray.is_initialized():
        raise ValueError(f"preparing {what} needs Ray, which is not started: call ray.init() first")
    # With ray:// this process is not part of the cluster, but Ray Data's executor runs in it.
    if client.ray.is_connected():
        raise ValueError(
            f"preparing {what} does not work through ray://; pass --address http://HOST:8265 (the command"
            " then runs on the cluster as a job), or run it on a node of the cluster"
        )


def require_mounted(job: ShardJob, root: Place) -> None:
    """Check that this node has the videos' storage; otherwise every video would count as damaged.

    Raises:
        StorageError: none of the videos that existed at planning time exists on this node.
    """
    videos = [storage.locate(root, video["path"]) for video in job.videos if video["bytes"] is not None]
    if videos and not any(_exists(video) for video in videos):
        raise StorageError(
            f"node {platform.node()} has none of the videos in {root} (missing, for example: {videos[0]});"
            " put them on storage that every node mounts under the same path"
        )


def _exists(video: Place) -> bool:
    # Object storage raises an error of its own if it cannot be reached. `Path.exists` raises an error for a
    # name that is too long.
    return not isinstance(video, Path) or os.path.exists(video)  # noqa: PTH110
