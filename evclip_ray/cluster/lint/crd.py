"""The operator's own definitions of its kinds, as `kubectl get crd ... -o yaml` gives them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evclip_ray.cluster.lint.kuberay_schema import SCHEMAS, Schema
from evclip_ray.cluster.lint.problems import read_documents
from evclip_ray.config import ConfigError

_VERSION = "v1"
_OPEN = ("additionalProperties", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource")


def read_schemas(paths: Sequence[Path]) -> dict[str, Schema]:
    """The schema of each kind: of the definitions in `paths`, else our own.

    Raises:
        ConfigError: a file that defines none of the kinds.
    """
    found = dict(SCHEMAS)
    for path in paths:
        kinds: dict[str, Schema] = {}
        for document in read_documents(path):
            kinds |= dict(_schemas(document.data))
        if not kinds.keys() & SCHEMAS.keys():
            raise ConfigError(
                f"{path}: defines none of {', '.join(SCHEMAS)}; kubectl get crd rayclusters.ray.io"
            )
        found |= kinds
    return found


def _schemas(data: Mapping[str, Any]) -> Iterator[tuple[str, Schema]]:
    for item in data.get("items", [data]):
        if item.get("kind") == "CustomResourceDefinition":
            for version in item["spec"]["versions"]:
                if version["name"] == _VERSION:
                    yield item["spec"]["names"]["kind"], closed(version["schema"]["openAPIV3Schema"])


def closed(schema: Any) -> Any:
    """A schema that refuses unknown fields, which Kubernetes drops silently."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    result = {key: closed(value) for key, value in schema.items() if key != "format"}
    if isinstance(schema.get("properties"), Mapping):
        # Of a field that is itself called "properties", only the fields are schemas.
        result["properties"] = {name: closed(part) for name, part in schema["properties"].items()}
        if schema.get("type") == "object" and not any(key in schema for key in _OPEN):
            result["additionalProperties"] = False
    return result
