import pytest
import yaml

from evclip_ray.cluster.lint.check import check_file
from evclip_ray.cluster.lint.crd import closed
from evclip_ray.cluster.lint.requirements import Requirements
from evclip_ray.config import ConfigError

SPEC = {
    "type": "object",
    "required": ["headGroupSpec"],
    "properties": {
        "rayVersion": {"type": "string"},
        "headGroupSpec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "size": {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "properties": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": SPEC,
    },
}
DEFINITION = {
    "kind": "CustomResourceDefinition",
    "spec": {
        "names": {"kind": "RayCluster"},
        "versions": [{"name": "v1alpha1"}, {"name": "v1", "schema": {"openAPIV3Schema": SCHEMA}}],
    },
}


@pytest.fixture(params=["one", "list"])
def definitions(request, tmp_path):
    path = tmp_path / "crds.yaml"
    path.write_text(yaml.safe_dump(DEFINITION if request.param == "one" else {"items": [DEFINITION]}))
    return path


def cluster(tmp_path, **spec):
    path = tmp_path / "cluster.yaml"
    path.write_text(
        yaml.safe_dump(
            {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "a"}, "spec": spec},
            sort_keys=False,
        )
    )
    return path


def test_unknown_field_is_reported_with_its_line(tmp_path, definitions):
    path = cluster(tmp_path, headGroupSpec={"anything": 1}, rayVersionn="2.60.0")
    (problem,) = check_file(path, Requirements(), crds=[definitions])
    assert "spec.rayVersionn: no such key; did you mean 'rayVersion'" in problem.text
    assert "rayVersionn" in path.read_text().splitlines()[problem.line - 1]


def test_types_and_required_fields_are_checked(tmp_path, definitions):
    problems = check_file(cluster(tmp_path, rayVersion=2.6, size="3"), Requirements(), crds=[definitions])
    assert sorted(problem.text.partition(":")[0] for problem in problems) == [
        "spec.headGroupSpec",
        "spec.rayVersion",
    ]


def test_file_with_other_definitions_is_refused(tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("kind: Deployment\n")
    with pytest.raises(ConfigError, match="defines none of RayCluster, RayJob"):
        check_file(cluster(tmp_path), Requirements(), crds=[other])


def test_field_named_properties_stays_a_field():
    assert closed(SPEC)["properties"]["properties"]["additionalProperties"] == {"type": "string"}
    assert closed(SPEC)["additionalProperties"] is False
