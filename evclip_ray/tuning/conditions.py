"""Checks of the conditions (`when`) of a search space, and of the values of a choice.

A condition that never holds would drop its setting from the search without a message. A choice that lists one
value twice would give it two shares of the trials.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from evclip_ray.config import ConfigError, Overrides
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.tuning.distributions import Distribution

ExperimentWith = Callable[[Distribution, str, Any], ExperimentConfig]
"""Returns an experiment with one listed value of a condition: (distribution, path of the condition, value).

It raises `ConfigError` if the value is invalid.
"""


def check_conditions(
    search: Sequence[Distribution],
    fixed: Overrides,
    experiment_with: ExperimentWith,
    *,
    free: Collection[str] = (),
) -> None:
    """Check that every condition of a space can hold, and that it lists valid values.

    Example: with `method.prompts: {choice: [both, context]}`, the condition `when: {method.prompts: [mask]}`
    never holds.

    Args:
        search: Distributions of all searched settings, in order.
        fixed: Settings that are not searched, by dotted path.
        experiment_with: See `ExperimentWith`.
        free: Paths that may have any value, because the command line or a ladder sets them.

    Raises:
        ConfigError: A condition never holds, or a value is invalid or is written in another type.
    """
    for distribution in search:
        for path, allowed in distribution.when.items():
            for value in allowed:
                if not _is_taken(path, value, search, fixed):
                    _check_listed(distribution, path, value, experiment_with)
        if conditions_of(distribution, search, fixed, free=free) is None:
            reasons = [_values(path, search, fixed) for path in distribution.when if path not in free]
            raise ConfigError(
                f"search.{distribution.path}: `when` never holds, so this setting would never be searched: "
                f"{'; '.join(reasons)}"
            )


def _check_listed(distribution: Distribution, path: str, value: Any, experiment_with: ExperimentWith) -> None:
    """Check a value of a condition that the other setting does not take. Valid values are accepted.

    They remain where a space is narrowed: `[both, mask]` after `mask` was removed from the choices.
    """
    where = f"search.{distribution.path}: `when` has {path} = {value!r}"
    try:
        read = setting_of(experiment_with(distribution, path, value), path, value)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if not _equal(read, value):
        # JSON writes a value as YAML does: true, 1.0 or "text".
        raise ConfigError(f"{where}, which is another value than {json.dumps(read, default=str)}; write that")


def check_choices(distribution: Distribution, settings: Sequence[Any]) -> None:
    """Check that the values of a choice differ as settings.

    Args:
        distribution: Choice.
        settings: Validated setting of each value: 8 for 8.0 and for "8".

    Raises:
        ConfigError: Two values are the same setting, such as 0.05 and "0.05".
    """
    for position, setting in enumerate(settings):
        for earlier in range(position):
            one, other = distribution.values[earlier], distribution.values[position]
            # Null selects a default, which may depend on other settings.
            if one is not None and other is not None and setting == settings[earlier]:
                raise ConfigError(
                    f"search.{distribution.path}: choices must differ, but {one!r} and {other!r} both mean "
                    f"{setting!r}; remove one"
                )


def setting_of(experiment: ExperimentConfig, path: str, given: Any) -> Any:
    """Return the validated value of a setting; `given` if the path is an alias, as `data.cached_views`."""
    value: Any = experiment
    for name in path.split("."):
        if not isinstance(value, BaseModel) or name not in type(value).model_fields:
            return given
        value = getattr(value, name)
    return value


def conditions_of(
    distribution: Distribution,
    search: Sequence[Distribution],
    fixed: Overrides,
    *,
    free: Collection[str] = (),
) -> dict[str, Any] | None:
    """Return settings under which a distribution applies, None if there are none.

    Args:
        distribution: Distribution with conditions, whose settings may have conditions too.
        search: Distributions of all searched settings.
        fixed: Settings that are not searched, by dotted path.
        free: Paths that may have any value.
    """
    return _solve(dict(distribution.when), search, {p: v for p, v in fixed.items() if p not in free}, ())


def _solve(
    wanted: Mapping[str, Sequence[Any]],
    search: Sequence[Distribution],
    fixed: Overrides,
    settled: Collection[str],
) -> dict[str, Any] | None:
    """Return one possible value of each path, None if the wanted values exclude each other.

    Args:
        wanted: Path -> values of which one is wanted.
        search: Distributions of all searched settings.
        fixed: Settings that are not searched.
        settled: Paths of `wanted` whose values are possible and whose own conditions are in `wanted`.
    """
    path = next((path for path in wanted if path not in settled), None)
    if path is None:
        return {name: values[0] for name, values in wanted.items()}
    searched = [other for other in search if other.path == path]
    if not searched:
        values = [value for value in wanted[path] if path not in fixed or value == fixed[path]]
        return _solve({**wanted, path: values}, search, fixed, {*settled, path}) if values else None
    for other in searched:
        # The conditions of the other setting must hold at the same time.
        merged = {**wanted, path: [value for value in wanted[path] if _takes(other, value)]}
        for name, allowed in other.when.items():
            merged[name] = [value for value in merged.get(name, allowed) if value in allowed]
        if all(merged.values()) and (solution := _solve(merged, search, fixed, {*settled, path})):
            return solution
    return None


def _is_taken(path: str, value: Any, search: Sequence[Distribution], fixed: Overrides) -> bool:
    """Return whether the space gives a setting this value, of this type."""
    searched = [other for other in search if other.path == path]
    if not searched:
        return path in fixed and _equal(fixed[path], value)
    return any(_takes(other, value) for other in searched)


def _takes(distribution: Distribution, value: Any) -> bool:
    """Return whether a distribution draws exactly this value. A continuous range never does."""
    low, high = distribution.values[0], distribution.values[-1]
    if distribution.kind in ("uniform", "loguniform"):
        return bool(low == high == value)
    try:
        distribution.find(value)
    except ValueError:
        return False
    return True


def _values(path: str, search: Sequence[Distribution], fixed: Overrides) -> str:
    """Return the values of a setting for a message."""
    searched = [other for other in search if other.path == path]
    choices = [repr(value) for other in searched if other.kind == "choice" for value in other.values]
    ranges = [str(other) for other in searched if other.kind != "choice"]
    return f"{path} is {' or '.join([*choices, *ranges] or [repr(fixed.get(path))])}"


def _equal(one: Any, other: Any) -> bool:
    # In Python True equals 1, but the two are different settings.
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
