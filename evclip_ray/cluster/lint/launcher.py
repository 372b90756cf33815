"""Checking a file of Ray's cluster launcher (`ray up`), without a cloud: Ray's own schema, and our needs."""

import contextlib
import functools
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from evclip_ray.cluster.lint import launcher_commands, launcher_nodes
from evclip_ray.cluster.lint.needs import Needs
from evclip_ray.cluster.lint.problems import Document, Problem
from evclip_ray.cluster.lint.schema import schema_problems
from evclip_ray.config import nearest
from evclip_ray.ray_internals import check_launcher_config, launcher_schema

_PROVIDERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # type: required keys, further keys that its code reads.
    "aws": (
        ("region",),
        ("availability_zone", "cache_stopped_nodes", "security_group", "key_pair", "aws_credentials",
         "cloudwatch", "use_internal_ips"),
    ),
    "gcp": (("project_id", "region", "availability_zone"), ("gcp_credentials", "use_internal_ips")),
    "azure": (
        ("location", "resource_group"),
        ("subscription_id", "availability_zone", "subnet_mask", "unique_id", "tags", "cache_stopped_nodes",
         "msi_name", "msi_resource_group", "use_node_vnet", "use_internal_ips", "use_external_head_ip"),
    ),
    "local": (("head_ip", "worker_ips"), ("external_head_ip", "coordinator_address")),
}  # fmt: skip
_LOCAL_ONLY = ("min_workers",)


def launcher_problems(document: Document, needs: Needs) -> Iterator[Problem]:
    """Everything that keeps a cluster from coming up, or a study from running on it."""
    found = [*_of_schema(document), *_of_provider(document)]
    yield from found
    if found:
        return  # What follows reads a file of the right shape.
    yield from _of_ray(document)
    yield from launcher_nodes.problems(document, needs)
    yield from launcher_commands.problems(document, needs)


@functools.cache
def _schema() -> dict[str, Any]:
    return dict(json.loads(launcher_schema().read_text(encoding="utf-8")))


def _of_schema(document: Document) -> Iterator[Problem]:
    data = dict(document.data)
    if document.get("provider", "type") == "local":
        # Read by the launcher before its own schema is.
        for key in _LOCAL_ONLY:
            data.pop(key, None)
    yield from schema_problems(Document(data, document.lines), _schema())


def _of_provider(document: Document) -> Iterator[Problem]:
    provider = document.get("provider")
    if not isinstance(provider, Mapping) or "type" not in provider:
        return
    kind = provider["type"]
    if kind not in _PROVIDERS:
        if "module" not in provider:
            text = f"provider.type: {kind!r} is unknown; {nearest(str(kind), list(_PROVIDERS))}"
            yield document.problem(("provider", "type"), text)
        return
    required, further = _PROVIDERS[kind]
    for key in required:
        if not provider.get(key):
            yield document.problem(("provider",), f"provider.{key}: is missing, and required for {kind}")
    known = ["type", *required, *further]
    for key in provider:
        if key not in known:
            text = f"provider.{key}: no such key for {kind}; {nearest(key, known)}"
            yield document.problem(("provider", key), text)


def _of_ray(document: Document) -> Iterator[Problem]:
    """What Ray's launcher itself says, on the way to its first call of a cloud."""
    try:
        # It prints what it thinks, whatever it returns.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            check_launcher_config(json.loads(json.dumps(document.data)))
    except (ValueError, TypeError, RuntimeError, SystemExit) as error:
        told = " ".join(str(error).split())
        yield document.problem((), f"Ray's launcher refuses the file: {told}")
