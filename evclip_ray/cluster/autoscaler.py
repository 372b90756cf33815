"""Machines that an autoscaling cluster may start. A plan counts them although they are not up yet.

Ray has no API for what its autoscaler may start. The cluster's file contains it, which `ray up` copies to
the head as `~/ray_bootstrap_config.yaml`. `EVCLIP_RAY_CLUSTER` names another copy, for example in a
Kubernetes pod.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evclip_ray.config import read_yaml

VARIABLE = "EVCLIP_RAY_CLUSTER"
_BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")


def possible_machines() -> list[Mapping[str, float]] | None:
    """Return the Ray resources of each worker that may be started, None without an autoscaler.

    Raises:
        ConfigError: EVCLIP_RAY_CLUSTER is set to a file that cannot be read.
    """
    variable = os.environ.get(VARIABLE)
    path = Path(variable or _BOOTSTRAP).expanduser()
    # The usual case of a cluster without an autoscaler. A file that the user named must exist.
    if not variable and not path.is_file():
        return None
    return worker_machines(read_yaml(path))


def worker_machines(config: Mapping[str, Any]) -> list[Mapping[str, float]] | None:
    """Return the Ray resources of each worker of a cluster file, None if the file has no node types."""
    types = config.get("available_node_types")
    if not isinstance(types, Mapping) or config.get("provider", {}).get("type") == "local":
        return None
    machines: list[Mapping[str, float]] = []
    for name, node_type in types.items():
        if name != config.get("head_node_type"):
            # Without a limit of its own, a type may use the limit of the whole cluster.
            count = node_type.get("max_workers", config.get("max_workers"))
            machines += [node_type.get("resources") or {}] * (count or 0)
    return machines
