"""Checking Kubernetes manifests of a RayCluster or RayJob: KubeRay's fields, and our needs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evclip_ray.cluster.lint.kuberay_schema import SCHEMAS, Schema
from evclip_ray.cluster.lint.needs import Needs
from evclip_ray.cluster.lint.problems import Document, Problem, Where
from evclip_ray.cluster.lint.schema import dotted, schema_problems
from evclip_ray.config import nearest
from evclip_ray.version import __version__

KINDS = (*SCHEMAS, "PersistentVolumeClaim", "ConfigMap", "NetworkPolicy")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_GPU = "nvidia.com/gpu"


def manifest_problems(
    documents: Sequence[Document], needs: Needs, schemas: Mapping[str, Schema] = SCHEMAS
) -> Iterator[Problem]:
    """What is wrong with the manifests of one file; `schemas`: of the kinds of KubeRay."""
    claims = [d.get("metadata", "name") for d in documents if d.get("kind") == "PersistentVolumeClaim"]
    for document in documents:
        kind = str(document.get("kind"))
        if kind not in KINDS:
            yield document.problem(
                ("kind",), f"kind: {kind!r} is not known here; {nearest(kind, list(KINDS))}"
            )
        elif kind == "PersistentVolumeClaim" and "ReadWriteMany" not in (
            document.get("spec", "accessModes") or []
        ):
            text = "spec.accessModes: must be [ReadWriteMany], for every node writes to it"
            yield document.problem(("spec", "accessModes"), text)
        elif kind in schemas:
            found = list(schema_problems(document, schemas[kind]))
            yield from found or _of_needs(document, needs, claims)


def _of_needs(document: Document, needs: Needs, claims: Sequence[str]) -> Iterator[Problem]:
    where: Where = ("spec",) if document.get("kind") == "RayCluster" else ("spec", "rayClusterSpec")
    spec = document.get(*map(str, where))
    if spec is None:
        if not document.get("spec", "clusterSelector"):
            yield document.problem(
                ("spec",), "spec: needs a rayClusterSpec, or the clusterSelector of a running one"
            )
        return
    if (spec.get("authOptions") or {}).get("mode") != "token":
        text = (
            f"{dotted(where)}.authOptions: must be {{mode: token}}, or whoever reaches a port runs code here"
        )
        yield document.problem((*where, "authOptions"), text)
    if spec.get("headGroupSpec", {}).get("serviceType", "ClusterIP") != "ClusterIP":
        text = f"{dotted(where)}.headGroupSpec.serviceType: must be ClusterIP; use kubectl port-forward"
        yield document.problem((*where, "headGroupSpec", "serviceType"), text)
    groups = [
        (*where, "headGroupSpec"),
        *((*where, "workerGroupSpecs", i) for i in range(len(spec.get("workerGroupSpecs") or []))),
    ]
    for group in groups:
        yield from _of_pod(document, group, needs, claims)
    yield from _of_workers(document, (*where, "workerGroupSpecs"), spec.get("workerGroupSpecs") or [], needs)
    images = {re.sub(r"-(?:cpu|cuda|gpu)$", "", c["image"]) for g in groups for c in _containers(document, g)}
    if len(images) > 1:
        yield document.problem(
            where, f"{dotted(where)}: head and workers must have the same image but for -cpu, -cuda"
        )


def _of_pod(document: Document, group: Where, needs: Needs, claims: Sequence[str]) -> Iterator[Problem]:
    pod = _at(document, (*group, "template", "spec"))
    here = (*group, "template", "spec")
    first = pod["containers"][0]
    tag = first["image"].rpartition(":")[2]
    if re.sub(r"-(?:cpu|cuda|gpu)$", "", tag) != __version__:
        text = f"{dotted(here)}.containers[0].image: is of version {tag}, here it is {__version__}"
        yield document.problem((*here, "containers", 0, "image"), text)
    mounted = {mount["mountPath"]: mount["name"] for mount in first.get("volumeMounts") or []}
    volumes = {volume["name"]: volume for volume in pod.get("volumes") or []}
    if str(needs.storage) not in mounted:
        text = f"{dotted(here)}.containers[0].volumeMounts: nothing is mounted at {needs.storage}"
        yield document.problem((*here, "containers", 0), text)
    for path, name in mounted.items():
        if name not in volumes:
            text = f"{dotted(here)}.volumes: {name!r}, mounted at {path}, is missing"
            yield document.problem((*here, "containers", 0, "volumeMounts"), text)
        claim = volumes.get(name, {}).get("persistentVolumeClaim", {}).get("claimName")
        if claim and claims and claim not in claims:
            text = f"{dotted(here)}.volumes: no claim {claim!r} in this file; {nearest(claim, list(claims))}"
            yield document.problem((*here, "volumes"), text)
    if "emptyDir" not in volumes.get(mounted.get("/dev/shm", ""), {}):
        text = f"{dotted(here)}: mount an emptyDir of medium Memory at /dev/shm, for 64 MB are too few"
        yield document.problem(here, text)


def _of_workers(
    document: Document, where: Where, groups: Sequence[Mapping[str, Any]], needs: Needs
) -> Iterator[Problem]:
    machines = []
    for place, group in enumerate(groups):
        name, most = group["groupName"], group.get("maxReplicas", group.get("replicas", 0))
        resources = _resources(group)
        if most == 0:
            yield document.problem(
                (*where, place), f"{dotted(where)}: {name}: maxReplicas is 0, so nothing ever uses it"
            )
        if needs.space is not None and resources["GPU"] and not needs.asks_gpus([resources]):
            text = f"{dotted(where)}: {name}: nothing uses its GPUs: {needs.space.name} has study.gpus = 0"
            yield document.problem((*where, place), text)
        machines += [resources] * most
    if reason := needs.placement_problem(machines):
        yield document.problem(where, f"{dotted(where)}: {reason}")


def _resources(group: Mapping[str, Any]) -> dict[str, float]:
    limits = group["template"]["spec"]["containers"][0].get("resources", {}).get("limits") or {}
    return {
        "CPU": quantity(limits.get("cpu", 0)), "GPU": quantity(limits.get(_GPU, 0)),
        "memory": quantity(limits.get("memory", 0)),
    }  # fmt: skip


def quantity(text: str | float) -> float:
    """Kubernetes' notation of amounts.

    >>> quantity("500m"), quantity("2Gi"), quantity(4)
    (0.5, 2147483648.0, 4.0)
    """
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) / 1000 if unit == "m" else float(number) * _UNITS[unit]


def _containers(document: Document, group: Where) -> list[Mapping[str, Any]]:
    return list(_at(document, (*group, "template", "spec", "containers")))


def _at(document: Document, where: Where) -> Any:
    found: Any = document.data
    for key in where:
        found = found[key]
    return found
