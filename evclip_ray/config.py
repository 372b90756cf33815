"""Validated configs, and the one mechanism of variation: a dotted path and a value.

An experiment is a tree of `Config` models. Everything that varies (the command line's `--set`, a
trial of a study, a row of a report) is a flat mapping of overrides, `{"optim.lr": 3e-4}`, applied
to the tree as it was read and validated once, as a whole. A key that no model knows is an error
that names the nearest path that exists.
"""

import copy
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

Overrides = Mapping[str, Any]
"""Dotted path -> value."""


class ConfigError(ValueError):
    """A config that cannot be used: the message names the path, the value and the cure."""


class Config(BaseModel):
    """Base of every config: immutable, unknown keys rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def resolve(cls, data: Mapping[str, Any]) -> type["Config"]:
        """The model that validates `data`; a family of configs overrides it to dispatch on a name."""
        return cls

    @classmethod
    def load(cls, data: Mapping[str, Any], overrides: Overrides | None = None) -> Self:
        """Validate `data` with `overrides` applied.

        Raises:
            ConfigError: unknown path (the nearest one is named) or a value out of its range.
        """
        tree = override(data, overrides or {})
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(_explain(cls, tree, error)) from None


def override(tree: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
    """A copy of `tree` with each dotted path set to its value; missing levels are made.

    >>> override({"optim": {"lr": 1e-3}}, {"optim.lr": 3e-4, "seed": 1})
    {'optim': {'lr': 0.0003}, 'seed': 1}
    """
    result = copy.deepcopy(dict(tree))
    for path, value in overrides.items():
        *parents, leaf = path.split(".")
        node = result
        for depth, key in enumerate(parents):
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                held = ".".join(parents[: depth + 1])
                raise ConfigError(f"{path}: {held} holds {child!r}, not a group of settings")
            node = child
        node[leaf] = value
    return result


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested mapping by dotted path, the inverse of `override`.

    Args:
        tree: Nested mapping. An empty mapping has no leaves.
        prefix: Text in front of every path.

    >>> flatten({"optim": {"lr": 1}, "seed": 2})
    {'optim.lr': 1, 'seed': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def parse_assignments(assignments: tuple[str, ...]) -> dict[str, Any]:
    """`("optim.lr=3e-4", ...)` as overrides; values are read as YAML."""
    parsed: dict[str, Any] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set needs PATH=VALUE, got {text!r}; for example optim.lr=3e-4")
        try:
            parsed[path.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {path}: {value!r} is not a YAML value") from None
    return parsed


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: missing or unreadable file, broken YAML (with its line), or no mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: must be UTF-8 text; save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "broken"
        raise ConfigError(f"{path}{where}: not valid YAML ({problem})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must hold a mapping of settings, got {type(data).__name__}")
    return data


def paths(model: type[Config], tree: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Every dotted path that a leaf of `model` has, with families resolved as `tree` names them."""
    tree = tree if isinstance(tree, Mapping) else {}
    for name, field in model.resolve(tree).model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Config):
            child = tree.get(name, field.get_default(call_default_factory=True))
            if isinstance(child, BaseModel):
                child = child.model_dump()
            yield from (f"{name}.{path}" for path in paths(kind, child))
        else:
            yield name


def nearest(name: str, known: list[str]) -> str:
    """`; the nearest valid name is ...`, or all of them when they are few and none is near."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if match:
        return f"the nearest valid name is {match[0]!r}"
    if len(known) <= 12:
        return "valid names: " + ", ".join(sorted(known))
    return "see --help"


def _explain(model: type[Config], tree: Mapping[str, Any], error: ValidationError) -> str:
    known = list(paths(model, tree))
    lines = []
    for detail in error.errors(include_url=False):
        path = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            lines.append(f"{path}: no such setting; {nearest(path, known)}")
        elif detail["type"] == "value_error":
            cause = str(detail["ctx"]["error"])
            lines.append(f"{path}: {cause}" if path else cause)
        else:
            lines.append(f"{path}: {detail['msg']}, got {detail['input']!r}")
    return "\n".join(lines)
