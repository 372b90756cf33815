"""KubeRay's custom resource definitions, as `kubectl get crd ... -o yaml` prints them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evclip_ray.cluster.lint.problems import read_documents
from evclip_ray.config import ConfigError

RAY_KINDS = ("RayCluster", "RayJob", "RayService")
Schema = dict[str, Any]
_VERSION = "v1"
# Keywords of a schema that allows other fields on purpose.
_OPEN = ("additionalProperties", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource")


def read_schemas(paths: Sequence[Path]) -> dict[str, Schema]:
    """Return the JSON schema of each kind that the files define.

    Raises:
        ConfigError: A file defines none of KubeRay's kinds.
    """
    schemas: dict[str, Schema] = {}
    for path in paths:
        kinds: dict[str, Schema] = {}
        for document in read_documents(path):
            kinds |= dict(_schemas(document.data))
        if not kinds.keys() & set(RAY_KINDS):
            raise ConfigError(
                f"{path}: defines none of {', '.join(RAY_KINDS)}. "
                "Write it with: kubectl get crd rayclusters.ray.io rayjobs.ray.io rayservices.ray.io -o yaml"
            )
        schemas |= kinds
    return schemas


def _schemas(data: Mapping[str, Any]) -> Iterator[tuple[str, Schema]]:
    for item in data.get("items", [data]):
        if item.get("kind") == "CustomResourceDefinition":
            for version in item["spec"]["versions"]:
                if version["name"] == _VERSION:
                    yield item["spec"]["names"]["kind"], closed(version["schema"]["openAPIV3Schema"])


def closed(schema: Any) -> Any:
    """Return a schema that rejects unknown fields, which Kubernetes would drop silently."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    # The formats of OpenAPI, such as int32, are not those of JSON Schema.
    result = {key: closed(value) for key, value in schema.items() if key != "format"}
    if isinstance(schema.get("properties"), Mapping):
        # A field may itself be named "properties". Only the values of this mapping are schemas.
        result["properties"] = {name: closed(part) for name, part in schema["properties"].items()}
        if schema.get("type") == "object" and not any(key in schema for key in _OPEN):
            result["additionalProperties"] = False
    return result
