"""Checking a YAML document against a JSON schema, in words: the line, the key and the nearest valid one."""

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from evclip_ray.cluster.lint.problems import Document, Problem
from evclip_ray.config import nearest


def schema_problems(document: Document, schema: Mapping[str, Any]) -> Iterator[Problem]:
    """Every way in which the document differs from the schema."""
    for error in jsonschema.Draft7Validator(schema).iter_errors(document.data):
        where = tuple(error.absolute_path)
        if error.validator == "additionalProperties":
            known = list(error.schema.get("properties", {}))
            for key in sorted(set(error.instance) - set(known)):
                name = dotted((*where, key))
                yield document.problem((*where, key), f"{name}: no such key; {nearest(key, known)}")
        elif error.validator == "required":
            for key in sorted(set(error.validator_value) - set(error.instance)):
                yield document.problem(where, f"{dotted((*where, key))}: is missing, and required")
        else:
            yield document.problem(where, f"{dotted(where)}: {error.message}")


def dotted(where: tuple[str | int, ...]) -> str:
    """`spec.containers[0].name`, from its keys and positions."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    return text.removeprefix(".")
