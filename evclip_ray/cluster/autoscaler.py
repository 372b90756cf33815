"""The machines that an autoscaling cluster may start, which a plan must count though they are not there.

Ray tells nobody what its autoscaler may start. It is written in the cluster's file, which `ray up`
puts on the head as `~/ray_bootstrap_config.yaml`; `EVCLIP_RAY_CLUSTER` names another copy, in a
Kubernetes pod for example.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evclip_ray.config import read_yaml

VARIABLE = "EVCLIP_RAY_CLUSTER"
_BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")


def possible_machines() -> list[Mapping[str, float]] | None:
    """Resources of each worker that the autoscaler may start; None without an autoscaler.

    Raises:
        ConfigError: the file is named but cannot be read.
    """
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else _BOOTSTRAP.expanduser()
    if not named and not path.is_file():
        return None
    return worker_machines(read_yaml(path.expanduser()))


def worker_machines(config: Mapping[str, Any]) -> list[Mapping[str, float]] | None:
    """Resources of each worker of a cluster file; None where it has no node types to choose from."""
    types = config.get("available_node_types")
    if not isinstance(types, Mapping) or config.get("provider", {}).get("type") == "local":
        return None
    most = config.get("max_workers")
    found: list[Mapping[str, float]] = []
    for name, kind in types.items():
        if name != config.get("head_node_type"):
            count = kind.get("max_workers", most)
            found += [kind.get("resources") or {}] * (count or 0)
    return found
