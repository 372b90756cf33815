"""Checks of a file of Ray's cluster launcher (`ray up`), without a cloud account.

Ray's own schema and validation come first. The other checks are requirements of a study on the node types.
Whether a machine type has the stated resources is left to the provider, which rejects the launch.
"""

import contextlib
import functools
import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from evclip_ray.cluster.autoscaler import worker_machines
from evclip_ray.cluster.lint import launcher_commands
from evclip_ray.cluster.lint.problems import Document, Problem, schema_problems
from evclip_ray.cluster.lint.requirements import MIN_DISK_GB, Requirements
from evclip_ray.config import nearest
from evclip_ray.ray_internals import check_launcher_config, launcher_schema

# Keys of `provider`, which Ray's schema leaves open: type -> (required keys, optional keys).
_PROVIDERS: Mapping[str, tuple[list[str], list[str]]] = {
    "aws": (
        ["region"],
        [
            "availability_zone",
            "cache_stopped_nodes",
            "security_group",
            "key_pair",
            "aws_credentials",
            "cloudwatch",
            "use_internal_ips",
        ],
    ),
    "gcp": (["project_id", "region", "availability_zone"], ["gcp_credentials", "use_internal_ips"]),
    "azure": (
        ["location", "resource_group"],
        [
            "subscription_id",
            "availability_zone",
            "subnet_mask",
            "unique_id",
            "tags",
            "cache_stopped_nodes",
            "msi_name",
            "msi_resource_group",
            "use_node_vnet",
            "use_internal_ips",
            "use_external_head_ip",
        ],
    ),
    "local": (["head_ip", "worker_ips"], ["external_head_ip", "coordinator_address"]),
}
_TYPES = "available_node_types"
_DISK_KEYS = ("VolumeSize", "diskSizeGb", "diskSizeGB")
# The words of AWS, Google and Azure for machines that can be taken away, in Python's notation of a mapping.
_SPOT = re.compile(r"'(?:MarketType|provisioningModel|priority)': '(?i:spot)'|'preemptible': True")


def launcher_problems(document: Document, requirements: Requirements) -> Iterator[Problem]:
    """Yield the problems that would stop a cluster from starting, or a study from running on it."""
    structural = [*_schema_problems(document), *_provider_problems(document)]
    yield from structural
    if structural:
        return  # The checks below rely on the structure.
    yield from _ray_problems(document)
    yield from _node_type_problems(document, requirements)
    yield from launcher_commands.problems(document, requirements)


@functools.cache
def _schema() -> dict[str, Any]:
    return dict(json.loads(launcher_schema().read_text(encoding="utf-8")))


def _schema_problems(document: Document) -> Iterator[Problem]:
    data = dict(document.data)
    if document.get("provider", "type") == "local":
        # The launcher reads this key of a local cluster before it applies the schema, which lacks it.
        data.pop("min_workers", None)
    yield from schema_problems(Document(data, document.lines), _schema())


def _provider_problems(document: Document) -> Iterator[Problem]:
    provider = document.get("provider")
    if not isinstance(provider, Mapping) or "type" not in provider:
        return
    kind = provider["type"]
    if kind not in _PROVIDERS:
        if "module" not in provider:
            text = f"provider.type: {kind!r} is unknown; {nearest(str(kind), list(_PROVIDERS))}"
            yield document.problem(("provider", "type"), text)
        return
    required, optional = _PROVIDERS[kind]
    for key in required:
        if not provider.get(key):
            yield document.problem(("provider",), f"provider.{key}: is missing, but {kind} requires it")
    known = ["type", *required, *optional]
    for key in provider:
        if key not in known:
            text = f"provider.{key}: no such key for {kind}; {nearest(key, known)}"
            yield document.problem(("provider", key), text)


def _ray_problems(document: Document) -> Iterator[Problem]:
    try:
        # The validation prints its findings as well.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            # A deep copy, because Ray adds defaults to the nested mappings of its argument.
            check_launcher_config(json.loads(json.dumps(document.data)))
    except (ValueError, TypeError, RuntimeError, SystemExit) as error:
        yield document.problem((), f"Ray's launcher rejects the file: {' '.join(str(error).split())}")


def _node_type_problems(document: Document, requirements: Requirements) -> Iterator[Problem]:
    types = document.get(_TYPES)
    if not types:
        return
    head = document.get("head_node_type")
    for name, node_type in types.items():
        yield from _resource_problems(document, name, node_type)
        if name != head:
            yield from _worker_problems(document, name, node_type, requirements)
        # Providers nest this key at different depths, so the pattern searches the text of the whole mapping.
        elif _SPOT.search(str(node_type["node_config"])):
            text = f"{_TYPES}.{name}: the head is a spot machine. Its loss ends every study, so use on-demand"
            yield document.problem((_TYPES, name, "node_config"), text)
    if requirements.space is not None and head in types:
        machines = [*(worker_machines(document.data) or []), types[head]["resources"]]
        if reason := requirements.placement_problem(machines):
            yield document.problem((_TYPES,), f"{requirements.space.name}: {reason}")


def _resource_problems(document: Document, name: str, node_type: Mapping[str, Any]) -> Iterator[Problem]:
    if "memory" not in node_type["resources"]:
        text = f"{_TYPES}.{name}.resources.memory: is missing. Set the bytes that trials may use"
        yield document.problem((_TYPES, name, "resources"), text)
    for size in _values(node_type["node_config"], _DISK_KEYS):
        if isinstance(size, int) and size < MIN_DISK_GB:
            text = f"{_TYPES}.{name}: a disk of {size} GB is too small for image, weights and shards. " + (
                f"Use at least {MIN_DISK_GB} GB"
            )
            yield document.problem((_TYPES, name, "node_config"), text)


def _worker_problems(
    document: Document, name: str, node_type: Mapping[str, Any], requirements: Requirements
) -> Iterator[Problem]:
    resources = node_type["resources"]
    if node_type.get("max_workers", document.get("max_workers")) == 0:
        text = f"{_TYPES}.{name}: max_workers is 0, so the type is never used. Remove it"
    elif not resources.get("CPU"):
        text = f"{_TYPES}.{name}: has no CPU, so no task fits. Set resources.CPU"
    elif requirements.space is not None and resources.get("GPU") and not requirements.uses_gpus([resources]):
        reason = f"{requirements.space.name} sets study.gpus to 0"
        text = f"{_TYPES}.{name}: its GPUs are unused, because {reason}. Remove the type"
    else:
        return
    yield document.problem((_TYPES, name), text)


def _values(tree: Any, keys: tuple[str, ...]) -> Iterator[Any]:
    """Yield the values of these keys at any depth, because each provider nests them differently."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key in keys:
                yield value
            yield from _values(value, keys)
    elif isinstance(tree, list):
        for value in tree:
            yield from _values(value, keys)
