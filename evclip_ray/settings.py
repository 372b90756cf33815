"""List of all settings with type, default, range and description, read from the config classes.

A description is that of the field, or the line of the field in the section "Attributes" of its class.
"""

import dataclasses
import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from docstring_parser import DocstringStyle, parse
from pydantic.fields import FieldInfo

from evclip_ray.config import Config, ConfigError, nearest
from evclip_ray.models.methods import METHODS, find_method, third_party_methods
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.tuning.search_space import StudyConfig

_SCALARS = {int: "integer", float: "number", bool: "true or false", str: "text"}
_BOUNDS = {
    annotated_types.Ge: ">=",
    annotated_types.Gt: ">",
    annotated_types.Le: "<=",
    annotated_types.Lt: "<",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        path: Dotted path, such as `optim.lr`.
        kind: Type with its range: "number > 0", "integer >= 1 or null", "one of both, mask, context".
        default: Default as JSON; "required" without one.
        description: What the setting does.
        methods: Methods that have the setting; empty for those of all methods.
    """

    path: str
    kind: str
    default: str
    description: str
    methods: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the setting as JSON values."""
        return dataclasses.asdict(self)


def list_settings(prefix: str = "") -> list[Setting]:
    """Return the settings whose path starts with `prefix`, in the order of the experiment, the study last.

    Args:
        prefix: Path or its beginning: "optim", "optim.lr", "method.mask".

    Raises:
        ConfigError: No setting starts with `prefix`. The nearest path is named.
    """
    settings = [*_experiment_settings(), *_settings_of(StudyConfig, "study.")]
    wanted = [one for one in settings if one.path.startswith(prefix)]
    if not wanted:
        groups = {".".join(one.path.split(".")[:depth]) for one in settings for depth in (1, 2)}
        known = sorted({one.path for one in settings} | groups)
        raise ConfigError(f"settings: none starts with {prefix!r}; {nearest(prefix, known)}")
    return wanted


def _experiment_settings() -> Iterator[Setting]:
    for setting in _settings_of(ExperimentConfig):
        # The class of the field `method` is the base of all methods.
        if setting.path == "method.name":
            yield from _method_settings()
        elif not setting.path.startswith("method."):
            yield setting


def _method_settings() -> list[Setting]:
    names = sorted({*METHODS, *third_party_methods()})
    merged: dict[tuple[str, str, str, str], list[str]] = {}
    for name in names:
        for setting in _settings_of(find_method(name), "method."):
            if setting.path != "method.name":
                key = (setting.path, setting.kind, setting.default, setting.description)
                merged.setdefault(key, []).append(name)
    chosen = Setting("method.name", f"one of {', '.join(names)}", '"ev_clip"', "adaptation of CLIP")
    settings = [Setting(*key, methods=tuple(methods)) for key, methods in merged.items()]
    return [chosen, *sorted(settings, key=lambda one: (one.path.count(".") > 1, one.path))]


def _settings_of(kind: type[Config], prefix: str = "") -> Iterator[Setting]:
    lines = _attribute_lines(kind)
    for name, field in kind.model_fields.items():
        group = _group_of(field.annotation)
        if group is not None:
            yield from _settings_of(group, f"{prefix}{name}.")
            continue
        described = " ".join((field.description or lines.get(name, "")).split())
        yield Setting(f"{prefix}{name}", _kind(field), _default(field), described)


def _attribute_lines(kind: type[Config]) -> dict[str, str]:
    lines: dict[str, str] = {}
    # Fields of a base class are described there.
    for each in reversed(kind.__mro__):
        for parameter in parse(each.__doc__ or "", DocstringStyle.GOOGLE).params:
            lines[parameter.arg_name] = parameter.description or ""
    return lines


def _group_of(annotation: Any) -> type[Config] | None:
    """Return the config class of a group of settings, which may be optional; None for a single setting."""
    for part in _parts(annotation):
        if isinstance(part, type) and issubclass(part, Config):
            return part
    return None


def _parts(annotation: Any) -> list[Any]:
    """Return the members of a union without annotations; any other type is a union of one."""
    origin = get_origin(annotation)
    if origin is Annotated or getattr(origin, "__name__", "") == "SerializeAsAny":
        return _parts(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [part for member in get_args(annotation) for part in _parts(member)]
    return [annotation]


def _kind(field: FieldInfo) -> str:
    bounds = [*_bounds(field.metadata), *_bounds_inside(field.annotation)]
    parts = _parts(field.annotation)
    choices = [json.dumps(value) if isinstance(value, bool) else str(value) for value in _choices(parts)]
    names = [_name_of(part) for part in parts if get_origin(part) is not Literal and part is not type(None)]
    shown = [*([f"one of {', '.join(choices)}"] if choices else []), *dict.fromkeys(names)]
    text = " ".join([" or ".join(shown), " and ".join(dict.fromkeys(bounds))]).strip()
    return f"{text} or null" if type(None) in parts else text


def _choices(parts: list[Any]) -> list[Any]:
    return [value for part in parts if get_origin(part) is Literal for value in get_args(part)]


def _name_of(part: Any) -> str:
    if get_origin(part) is tuple:
        members = [member for member in get_args(part) if member is not Ellipsis]
        inner = dict.fromkeys(" or ".join(map(_member_name, _parts(member))) for member in members)
        return f"list of {', '.join(inner)}"
    return _SCALARS.get(part, getattr(part, "__name__", str(part)))


def _member_name(part: Any) -> str:
    return ", ".join(map(str, get_args(part))) if get_origin(part) is Literal else _name_of(part)


def _bounds(metadata: list[Any]) -> list[str]:
    bounds = []
    for item in metadata:
        for kind, sign in _BOUNDS.items():
            if isinstance(item, kind):
                bounds.append(f"{sign} {getattr(item, kind.__name__.lower())}")
    return bounds


def _bounds_inside(annotation: Any) -> list[str]:
    """Return the bounds of an annotated member of a union, as in `Annotated[int, Field(ge=1)] | None`."""
    if get_origin(annotation) is Annotated:
        inside = [item for one in get_args(annotation)[1:] for item in getattr(one, "metadata", [one])]
        return _bounds(inside)
    if get_origin(annotation) in (Union, types.UnionType):
        return [bound for member in get_args(annotation) for bound in _bounds_inside(member)]
    return []


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return json.dumps(field.get_default(call_default_factory=True), default=str, ensure_ascii=False)
