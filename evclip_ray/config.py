"""Validated settings and overrides of them by dotted path.

An experiment is a tree of `Config` models. Everything that varies (`--set` on the command line, a trial of a
study, a step of a ladder) is a flat mapping of overrides, `{"optim.lr": 3e-4}`. Overrides are applied to the
tree as it was read; the result is validated once, as a whole. The error for an unknown key names the nearest
existing path.
"""

import copy
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

Overrides = Mapping[str, Any]
"""Dotted path -> value."""


class ConfigError(ValueError):
    """Invalid setting. The message names the path, the value and the fix."""


class Config(BaseModel):
    """Base of every config: immutable, unknown keys rejected."""

    # NaN has no form in JSON and differs from itself, so that equal configs would compare as different.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def resolve(cls, data: Mapping[str, Any]) -> type["Config"]:
        """Return the model that validates `data`. Families of configs override it to choose by name."""
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
    """Return a copy of `tree` with each dotted path set to its value. Missing levels are created.

    Raises:
        ConfigError: a path leads through a value that is not a group of settings.

    >>> override({"optim": {"lr": 1e-3}}, {"optim.lr": 3e-4, "seed": 1})
    {'optim': {'lr': 0.0003}, 'seed': 1}
    """
    # One tree is the base of every trial, so a trial must not change nested values of it.
    result = copy.deepcopy(dict(tree))
    for path, value in overrides.items():
        *parents, leaf = path.split(".")
        node = result
        for depth, key in enumerate(parents):
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                parent = ".".join(parents[: depth + 1])
                raise ConfigError(f"{path}: {parent} is {child!r}, not a group of settings")
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
    """Parse `("optim.lr=3e-4", ...)` as overrides, with values in YAML.

    Raises:
        ConfigError: a text without `=` or path, or a value that is not YAML.
    """
    parsed: dict[str, Any] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set needs PATH=VALUE, got {text!r}; for example optim.lr=3e-4")
        try:
            # PyYAML reads 3e-4 as text, because a float of YAML 1.1 needs a dot. Pydantic converts the text
            # where the setting is a number.
            parsed[path.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {path}: {value!r} is not a YAML value") from None
    return parsed


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file.

    Raises:
        ConfigError: the file is missing or unreadable, not YAML (with the line), or not a mapping.
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
    """Yield the dotted path of every setting of a model.

    Args:
        model: The model.
        tree: Values that choose the members of families of configs.
    """
    tree = tree if isinstance(tree, Mapping) else {}
    # The values choose the model: a family of configs has other settings for each of its names.
    for name, field in model.resolve(tree).model_fields.items():
        kind = field.annotation
        # An optional group of settings is a setting too, as it can be null.
        groups = [part for part in get_args(kind) if isinstance(part, type) and issubclass(part, Config)]
        if groups:
            yield name
            kind = groups[0]
        if isinstance(kind, type) and issubclass(kind, Config):
            child = tree.get(name, field.get_default(call_default_factory=True)) or {}
            # A default is an instance of its model, a value from a file a mapping.
            if isinstance(child, BaseModel):
                child = child.model_dump()
            yield from (f"{name}.{path}" for path in paths(kind, child))
        else:
            yield name


def nearest(name: str, known: list[str]) -> str:
    """Return the hint for an unknown name: the nearest valid name, or all valid names if they are few."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if match:
        return f"did you mean {match[0]!r}?"
    if len(known) <= 12:
        return "valid names: " + ", ".join(sorted(known))
    return "see --help"


def _explain(model: type[Config], tree: Mapping[str, Any], error: ValidationError) -> str:
    known = list(paths(model, tree))
    lines = []
    for detail in error.errors(include_url=False):
        path = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            lines.append(f"{path}: unknown setting; {nearest(path, known)}")
        elif detail["type"] == "value_error":
            # The exception of the validator itself. Pydantic's own text begins with "Value error, ".
            cause = str(detail["ctx"]["error"])
            lines.append(f"{path}: {cause}" if path else cause)
        else:
            lines.append(f"{path}: {detail['msg']}, got {detail['input']!r}")
    return "\n".join(lines)
