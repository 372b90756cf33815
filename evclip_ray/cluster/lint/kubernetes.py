"""Checks of Kubernetes manifests of a RayCluster, RayJob or RayService against the requirements of a study.

The fields of the manifests are not checked here: `kubectl apply --dry-run=server` does that with the
definitions of the installed operator, or `evclip-ray cluster check --crd FILE` with a copy of them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evclip_ray.cluster.lint.crd import RAY_KINDS, Schema
from evclip_ray.cluster.lint.problems import Document, Problem, Where, dotted, schema_problems
from evclip_ray.cluster.lint.requirements import Requirements
from evclip_ray.config import nearest
from evclip_ray.version import __version__

KINDS = (*RAY_KINDS, "PersistentVolumeClaim", "ConfigMap", "NetworkPolicy")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_GPU = "nvidia.com/gpu"
# Field of the specification that describes the cluster. A RayCluster is one itself.
_CLUSTER: Mapping[str, Where] = {
    "RayJob": ("spec", "rayClusterSpec"),
    "RayService": ("spec", "rayClusterConfig"),
}
# The images of one version differ by device only: NAME:VERSION-cpu and NAME:VERSION-cuda.
_DEVICE_SUFFIX = re.compile(r"-(?:cpu|cuda|gpu)$")


def manifest_problems(
    documents: Sequence[Document], requirements: Requirements, schemas: Mapping[str, Schema]
) -> Iterator[Problem]:
    """Yield the problems of the manifests of one file.

    Args:
        documents: The YAML documents of the file.
        requirements: Requirements of the study on the cluster.
        schemas: JSON schema of each kind, empty to skip the check of fields.
    """
    claims = [d.get("metadata", "name") for d in documents if d.get("kind") == "PersistentVolumeClaim"]
    for document in documents:
        kind = str(document.get("kind"))
        if kind not in KINDS:
            yield document.problem(("kind",), f"kind: {kind!r} is unknown; {nearest(kind, list(KINDS))}")
        elif kind == "PersistentVolumeClaim":
            if "ReadWriteMany" not in (document.get("spec", "accessModes") or []):
                text = "spec.accessModes: must be [ReadWriteMany], because every node writes to the volume"
                yield document.problem(("spec", "accessModes"), text)
        elif kind in RAY_KINDS:
            violations = list(schema_problems(document, schemas[kind])) if kind in schemas else []
            # The other checks rely on the structure that the schema demands.
            yield from violations or _cluster_problems(document, requirements, claims)


def _cluster_problems(
    document: Document, requirements: Requirements, claims: Sequence[str]
) -> Iterator[Problem]:
    where = _CLUSTER.get(str(document.get("kind")), ("spec",))
    spec = document.get(*where)
    if not isinstance(spec, Mapping):
        if not document.get("spec", "clusterSelector"):
            text = f"spec: needs a {where[-1]}, or the clusterSelector of a running cluster"
            yield document.problem(("spec",), text)
        return
    if document.get(*where, "authOptions", "mode") != "token":
        text = f"{dotted(where)}.authOptions: must be {{mode: token}}. Without it any client can run code"
        yield document.problem((*where, "authOptions"), text)
    if document.get(*where, "headGroupSpec", "serviceType") not in (None, "ClusterIP"):
        text = f"{dotted(where)}.headGroupSpec.serviceType: must be ClusterIP. Use kubectl port-forward"
        yield document.problem((*where, "headGroupSpec", "serviceType"), text)
    workers: list[Where] = [
        (*where, "workerGroupSpecs", number) for number in range(len(spec.get("workerGroupSpecs") or []))
    ]
    images = set()
    for group in [(*where, "headGroupSpec"), *workers]:
        yield from _pod_problems(document, group, requirements, claims)
        if image := document.get(*group, *_CONTAINER, "image"):
            # A head without a GPU can use the image for CPUs: only Python and packages must be equal.
            images.add(_DEVICE_SUFFIX.sub("", image))
    if len(images) > 1:
        text = (
            f"{dotted(where)}: head and workers must use the same image, except for the suffix -cpu or -cuda"
        )
        yield document.problem(where, text)
    yield from _worker_problems(document, workers, requirements)


_POD: Where = ("template", "spec")
_CONTAINER: Where = (*_POD, "containers", 0)


def _pod_problems(
    document: Document, group: Where, requirements: Requirements, claims: Sequence[str]
) -> Iterator[Problem]:
    pod, container = (*group, *_POD), (*group, *_CONTAINER)
    image = document.get(*container, "image")
    if not isinstance(image, str):
        yield document.problem(container, f"{dotted(container)}.image: is missing")
        return
    tag = image.rpartition(":")[2]
    if _DEVICE_SUFFIX.sub("", tag) != __version__:
        text = f"{dotted(container)}.image: has version {tag}, but this evclip-ray is {__version__}"
        yield document.problem((*container, "image"), text)
    mounts = {m.get("mountPath"): m.get("name") for m in document.get(*container, "volumeMounts") or []}
    volumes = {volume.get("name"): volume for volume in document.get(*pod, "volumes") or []}
    if str(requirements.storage) not in mounts:
        text = f"{dotted(container)}.volumeMounts: nothing is mounted at {requirements.storage}"
        yield document.problem(container, text)
    for path, name in mounts.items():
        if name not in volumes:
            text = f"{dotted(pod)}.volumes: {name!r}, mounted at {path}, is missing"
            yield document.problem((*container, "volumeMounts"), text)
        claim = volumes.get(name, {}).get("persistentVolumeClaim", {}).get("claimName")
        # A file without any claim can use a volume that exists on the cluster already.
        if claim and claims and claim not in claims:
            text = f"{dotted(pod)}.volumes: no claim {claim!r} in this file; {nearest(claim, list(claims))}"
            yield document.problem((*pod, "volumes"), text)
    if "emptyDir" not in volumes.get(mounts.get("/dev/shm"), {}):
        # Ray's object store lives in /dev/shm. A container has 64 MB of it by default.
        text = f"{dotted(pod)}: mount an emptyDir of medium Memory at /dev/shm (default: 64 MB)"
        yield document.problem(pod, text)


def _worker_problems(
    document: Document, workers: Sequence[Where], requirements: Requirements
) -> Iterator[Problem]:
    machines = []
    for group in workers:
        name = document.get(*group, "groupName")
        replicas = document.get(*group, "maxReplicas")
        # Without an autoscaler a group may have `replicas` only.
        count = document.get(*group, "replicas") or 0 if replicas is None else replicas
        resources = _resources(document.get(*group, *_CONTAINER, "resources", "limits") or {})
        if count == 0:
            text = f"{dotted(group[:-1])}: {name}: maxReplicas is 0, so the group is never used"
            yield document.problem(group, text)
        if requirements.space is not None and resources["GPU"] and not requirements.uses_gpus([resources]):
            reason = f"its GPUs are unused, because {requirements.space.name} sets study.gpus to 0"
            yield document.problem(group, f"{dotted(group[:-1])}: {name}: {reason}")
        machines += [resources] * count
    if problem := requirements.placement_problem(machines):
        where = workers[0][:-1] if workers else ("spec",)
        yield document.problem(where, f"{dotted(where)}: {problem}")


def _resources(limits: Mapping[str, Any]) -> dict[str, float]:
    return {
        "CPU": quantity(limits.get("cpu", 0)),
        "GPU": quantity(limits.get(_GPU, 0)),
        "memory": quantity(limits.get("memory", 0)),
    }


def quantity(text: str | float) -> float:
    """Parse Kubernetes' notation of amounts.

    >>> quantity("500m"), quantity("2Gi"), quantity(4)
    (0.5, 2147483648.0, 4.0)
    """
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    assert match is not None, text
    # The suffix m is a thousandth: 500m is half a CPU.
    number, unit = match.groups()
    return float(number) / 1000 if unit == "m" else float(number) * _UNITS[unit]
