"""Resources that a worker group reserves, in every supported version of Ray."""

import ray
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
    get_or_create_autoscaling_coordinator,
)


def reserve(requester):
    """Reserve one CPU, as Ray Train does for a group."""
    coordinator = get_or_create_autoscaling_coordinator()
    ray.get(coordinator.request_resources.remote(requester, [{"CPU": 1}], expire_after_s=180))


def reserved(requester):
    """Return the resources that a requester has reserved."""
    coordinator = get_or_create_autoscaling_coordinator()
    # Ray renamed the method in 2.58.
    is_new = hasattr(coordinator, "get_reserved_resources")
    method = coordinator.get_reserved_resources if is_new else coordinator.get_allocated_resources
    return ray.get(method.remote(requester))
