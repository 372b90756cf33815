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


def parse_assignments(assignments: tuple[str, ...], *, option: str = "--set") -> dict[str, Any]:
    """Parse `("optim.lr=3e-4", ...)` as overrides, with values in YAML.

    Args:
        assignments: Texts PATH=VALUE.
        option: Option of the command line that they come from, for the error.

    Raises:
        ConfigError: a text without `=` or path, or a value that is not YAML.
    """
    parsed: dict[str, Any] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            example = "; for example optim.lr=3e-4" if option == "--set" else ""
            raise ConfigError(f"{option} needs PATH=VALUE, got {text!r}{example}")
        try:
            # PyYAML reads 3e-4 as text, because a float of YAML 1.1 needs a dot. Pydantic converts the text
            # where the setting is a number.
            parsed[path.strip()] = parse_yaml(value)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"{option} {path}: {value!r} is not a YAML value ({yaml_fault(error)})"
            ) from None
    return parsed


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file.

    Raises:
        ConfigError: the file is missing or unreadable, not YAML (with the line), or not a mapping; or a
            setting is given twice, as in `optim: {lr: 1}` and `optim.lr: 2`.
    """
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"), dotted=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: must be UTF-8 text; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}, {yaml_fault(error)}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must hold a mapping of settings, got {type(data).__name__}")
    return data


def parse_yaml(text: str, *, dotted: bool = False) -> Any:
    """Parse one YAML document. PyYAML alone keeps the last of equal keys and drops the others.

    Args:
        text: The document.
        dotted: Treat `a.b` as the key `b` of the mapping `a`.

    Raises:
        yaml.YAMLError: The text is not YAML, or a key is given twice in one mapping.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        check_keys(node, dotted=dotted)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def check_keys(node: yaml.Node, *, dotted: bool = False) -> None:
    """Check that no mapping of a YAML document has a key twice. See `parse_yaml`.

    Raises:
        yaml.MarkedYAMLError: A key is given twice. The error has its line.
    """
    # The parsed nodes are checked and not the mappings: `<<` may repeat a key, which overrides it on purpose.
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            check_keys(item, dotted=dotted)
    elif isinstance(node, yaml.MappingNode):
        # The inner mappings come first, so that the message has the shortest path.
        for _, value in node.value:
            check_keys(value, dotted=dotted)
        lines: dict[tuple[str, str], int] = {}
        for tag, key, mark in _keys(node, dotted):
            if (tag, key) in lines:
                first = lines[tag, key]
                raise yaml.MarkedYAMLError(
                    problem=f"{key!r} is given twice, first in line {first}; keep one", problem_mark=mark
                )
            lines[tag, key] = mark.line + 1


def _keys(node: yaml.MappingNode, dotted: bool, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield the tag, the path and the place of the keys of a mapping; if `dotted`, also those below them."""
    for key, value in node.value:
        # A complex key, such as a list, cannot be a setting.
        if isinstance(key, yaml.ScalarNode):
            is_group = dotted and isinstance(value, yaml.MappingNode)
            # A group may be spread over `optim: {...}` and `optim.lr`, but not over two groups.
            yield "" if dotted else key.tag, f"{prefix}{key.value}", key.start_mark
            if is_group:
                yield from _keys(value, dotted, f"{prefix}{key.value}.")


def yaml_fault(error: yaml.YAMLError) -> str:
    """Return the line and the fault of an error of YAML."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark else ""
    return f"{where}not valid YAML ({getattr(error, 'problem', None) or 'broken'})"


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


def nearest_path(path: Path) -> str:
    """Return "; did you mean PATH?" for a path that does not exist, or "" if no name is near.

    Args:
        path: Missing path. Only its first missing part is compared, with the names in its folder.
    """
    missing = path.expanduser()
    while not missing.parent.exists():
        missing = missing.parent
    try:
        names = [entry.name for entry in missing.parent.iterdir()]
    except OSError:
        return ""
    match = difflib.get_close_matches(missing.name, names, n=1, cutoff=0.6)
    if not match:
        return ""
    meant = missing.with_name(match[0]) / path.expanduser().relative_to(missing)
    return f"; did you mean {meant}?" if meant.exists() else ""


_FAULTS = {
    "missing": "is missing",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "too_long": "must have at most {max_length} values",
    "too_short": "must have at least {min_length} values",
}
"""Type of an error of pydantic -> our text, with the values of its context."""
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a group of settings",
    "model": "a group of settings",
}
"""First part of the type of an error of pydantic, such as "int_parsing" -> what the value must be."""


def explain(detail: Mapping[str, Any]) -> str:
    """Return the fault of a value: "must be a number, got 'abc'". Pydantic's texts name no value and no fix.

    Args:
        detail: One entry of `ValidationError.errors`.
    """
    kind, context = str(detail["type"]), detail.get("ctx") or {}
    if kind == "value_error" and "error" in context:
        # The exception of the validator itself. Pydantic's own text begins with "Value error, ".
        return str(context["error"])
    if kind in _FAULTS:
        text = _FAULTS[kind].format(**context)
    elif kind.partition("_")[0] in _KINDS:
        text = f"must be {_KINDS[kind.partition('_')[0]]}"
    else:
        text = str(detail["msg"]).replace("Input should be", "must be")
    return text if kind == "missing" else f"{text}, got {detail['input']!r}"


def explain_all(error: ValidationError) -> str:
    """Return one line for each fault that pydantic found, such as "optim.lr: must be a number, got 'abc'"."""
    details = [(".".join(map(str, one["loc"])), explain(one)) for one in error.errors(include_url=False)]
    return "\n".join(f"{path}: {fault}" if path else fault for path, fault in details)


def _explain(model: type[Config], tree: Mapping[str, Any], error: ValidationError) -> str:
    known = list(paths(model, tree))
    lines = []
    for detail in error.errors(include_url=False):
        path = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            hint = nearest(path, known).replace("see --help", "`evclip-ray settings` lists all")
            lines.append(f"{path}: unknown setting; {hint}")
            continue
        cause = explain(detail)
        # Validators of several settings name them themselves.
        is_named = not path or cause.startswith((f"{path} ", f"{path}."))
        lines.append(cause if is_named else f"{path}: {cause}")
    return "\n".join(lines)
