"""On which nodes of a cluster videos are decoded, and whether a node can."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evclip_ray.data import storage
from evclip_ray.data.shards.format import ShardJob
from evclip_ray.data.storage import Place, StorageError

_LABEL = "ray.io/node-id"


def only_on(nodes: Sequence[str]) -> dict[str, Any]:
    """What tells Ray Data to run an operator's tasks on these nodes, waiting where they are busy.

    Anywhere where none is named. Ray's own `fallback_strategy` would not wait: it takes an idle node
    that is not named before a busy one that is. Without it the last one's death is TaskUnschedulableError.
    """
    return {"label_selector": {_LABEL: f"in({','.join(nodes)})"}} if nodes else {}


def count_cpus(nodes: Sequence[str]) -> int:
    """CPUs of these nodes, or of all where none is named; 1 at least, as a cluster may grow from none."""
    import ray

    found = [n["Resources"] for n in ray.nodes() if n["Alive"] and (not nodes or n["NodeID"] in nodes)]
    return max(1, int(sum(resources.get("CPU", 0) for resources in found)))


def require_ray(what: str) -> None:
    """Find out, before Ray Data's own trace, that it cannot prepare `what`.

    Raises:
        ValueError: Ray is not started, or this process speaks to it through ray://.
    """
    import ray
    from ray.util import client

    if not ray.is_initialized():
        raise ValueError(f"preparing {what} needs Ray, which is not started: call ray.init() first")
    if client.ray.is_connected():
        raise ValueError(
            f"{what} are prepared by Ray Data, which does not run through ray://; give"
            " --address http://HOST:8265 (the command runs on the cluster as a job), or run it on a node"
        )


def require_seen(job: ShardJob, root: Place) -> None:
    """Find out that this node lacks the videos' storage, before every video counts as a bad one.

    Raises:
        StorageError: nothing is here of what was there when the job was planned.
    """
    seen = [storage.locate(root, video["path"]) for video in job.videos if video["bytes"] is not None]
    if seen and not any(_is_here(place) for place in seen):
        raise StorageError(
            f"node {platform.node()} sees nothing of {root} (not {seen[0]}, for one); put the videos on"
            " storage that every node mounts under the same path"
        )


def _is_here(place: Place) -> bool:
    # Another storage than a folder answers for itself.
    return not isinstance(place, Path) or place.exists()
