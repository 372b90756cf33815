"""The node types of a launcher's file: what they promise, what they have, and whether a trial fits."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from evclip_ray.cluster.autoscaler import worker_machines
from evclip_ray.cluster.lint.machine_types import MACHINE_TYPES, WITHOUT_BFLOAT16, MachineType
from evclip_ray.cluster.lint.needs import DISK_GB, Needs
from evclip_ray.cluster.lint.problems import Document, Problem
from evclip_ray.training.resources import GIB

_TYPES = "available_node_types"
_MACHINE_KEYS = ("InstanceType", "machineType", "vmSize")
_DISK_KEYS = ("VolumeSize", "diskSizeGb", "diskSizeGB")
_SPOT = re.compile(r"'(?:MarketType|provisioningModel|priority)': '(?i:spot)'|'preemptible': True")


def problems(document: Document, needs: Needs) -> Iterator[Problem]:
    """What is wrong with the node types."""
    types = document.get(_TYPES)
    if not types:
        return
    for name, kind in types.items():
        yield from _of_machine(document, name, kind)
        if name == document.get("head_node_type"):
            yield from _of_head(document, name, kind)
        else:
            yield from _of_worker(document, name, kind, needs)
    machines = worker_machines(document.data) or []
    if needs.space is not None and (
        text := needs.placement_problem([*machines, types[document.get("head_node_type")]["resources"]])
    ):
        yield document.problem((_TYPES,), f"{needs.space.name}: {text}")


def _of_machine(document: Document, name: str, kind: Mapping[str, Any]) -> Iterator[Problem]:
    resources = kind["resources"]
    if "memory" not in resources:
        text = f"{_TYPES}.{name}.resources.memory: is missing; say in bytes what trials may use, or none fits"
        yield document.problem((_TYPES, name, "resources"), text)
    machine = _machine(kind)
    if machine is not None:
        promised = {"CPU": machine.cpus, "GPU": machine.gpus, "memory": machine.memory * GIB}
        for key, most in promised.items():
            if resources.get(key, 0) > most:
                text = f"{_TYPES}.{name}.resources.{key}: is {resources[key]}, but the machine has {most}"
                yield document.problem((_TYPES, name, "resources", key), text)
        if machine.gpus and not resources.get("GPU"):
            text = (
                f"{_TYPES}.{name}.resources.GPU: is missing, but the machine has {machine.gpus} {machine.gpu}"
            )
            yield document.problem((_TYPES, name, "resources"), text)
    for size in _values(kind["node_config"], _DISK_KEYS):
        if isinstance(size, int) and size < DISK_GB:
            text = (
                f"{_TYPES}.{name}: a disk of {size} GB is too small; {DISK_GB} for image, weights and shards"
            )
            yield document.problem((_TYPES, name, "node_config"), text)


def _of_head(document: Document, name: str, kind: Mapping[str, Any]) -> Iterator[Problem]:
    if _SPOT.search(str(kind["node_config"])):
        text = (
            f"{_TYPES}.{name}: the head is a spot machine, and its loss ends every study; make it on-demand"
        )
        yield document.problem((_TYPES, name, "node_config"), text)


def _of_worker(document: Document, name: str, kind: Mapping[str, Any], needs: Needs) -> Iterator[Problem]:
    resources = kind["resources"]
    most = kind.get("max_workers", document.get("max_workers"))
    if most == 0:
        yield document.problem(
            (_TYPES, name), f"{_TYPES}.{name}: max_workers is 0, so nothing ever uses it; remove it"
        )
    elif not resources.get("CPU"):
        yield document.problem(
            (_TYPES, name), f"{_TYPES}.{name}: has no CPU, so nothing can use it; say how many"
        )
    elif needs.space is not None and resources.get("GPU") and not needs.asks_gpus([resources]):
        text = f"{_TYPES}.{name}: nothing uses its GPUs, for {needs.space.name} has study.gpus = 0; remove it"
        yield document.problem((_TYPES, name), text)
    machine = _machine(kind)
    if machine is not None and machine.gpu in WITHOUT_BFLOAT16 and needs.wants_bfloat16:
        text = f"{_TYPES}.{name}: a {machine.gpu} has no bfloat16; set precision=float32"
        yield document.problem((_TYPES, name), text)


def _machine(kind: Mapping[str, Any]) -> MachineType | None:
    named = next((str(value) for value in _values(kind["node_config"], _MACHINE_KEYS)), "")
    return MACHINE_TYPES.get(named)


def _values(tree: Any, keys: tuple[str, ...]) -> Iterator[Any]:
    """Every value of these keys, at any depth: each provider nests them in its own way."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key in keys:
                yield value
            yield from _values(value, keys)
    elif isinstance(tree, list):
        for value in tree:
            yield from _values(value, keys)
