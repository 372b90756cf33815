"""Distribution of one searched setting: its values and its conditions."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self

from evclip_ray.config import ConfigError, Overrides, nearest

Domain = tuple[Literal["choice", "interval"], tuple[Any, ...]]
DISTRIBUTIONS = ("choice", "uniform", "loguniform", "int", "quantised")


class Suggests(Protocol):
    """Part of an Optuna trial that sampling uses."""

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """Return one of `choices`."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return a float in [low, high]."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        """Return an integer in [low, high]."""


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Distribution of one searched path.

    Attributes:
        path: Dotted path of the setting.
        kind: One of `DISTRIBUTIONS`.
        values: Choices, or bounds and step.
        when: Conditions: path of another setting -> values for which this setting exists.
        balanced: Whether each value of a choice gets the same number of trials.
        is_alternative: Whether the path has other distributions under other conditions.
    """

    path: str
    kind: str
    values: tuple[Any, ...]
    when: Mapping[str, tuple[Any, ...]]
    balanced: bool = False
    is_alternative: bool = False

    @classmethod
    def parse_all(cls, path: str, spec: Any) -> tuple[Self, ...]:
        """Parse the distribution of a path, or the list of its distributions under different conditions.

        Args:
            path: Dotted path of the setting.
            spec: Value of the path in the search space.

        Raises:
            ConfigError: As `parse`, or two distributions of a list could apply at the same time.
        """
        if not isinstance(spec, list):
            return (cls.parse(path, spec),)
        parsed = [dataclasses.replace(cls.parse(path, one), is_alternative=True) for one in spec]
        if not parsed:
            raise ConfigError(f"search.{path}: a list needs at least one distribution, got none")
        for one, other in itertools.combinations(parsed, 2):
            if not one._excludes(other):
                raise ConfigError(
                    f"search.{path}: `{one}` and `{other}` could apply at the same time. Give both a `when` "
                    "with different values of one setting."
                )
            if "choice" in (one.kind, other.kind) and one.kind != other.kind:
                raise ConfigError(f"search.{path}: a list must not mix choices with ranges, got {spec!r}")
        return tuple(parsed)

    @classmethod
    def parse(cls, path: str, spec: Any) -> Self:
        """Parse a distribution such as `{"int": [1, 4], "when": {"method.prompts": ["mask"]}}`.

        Args:
            path: Dotted path of the setting.
            spec: Value of the path in the search space.

        Raises:
            ConfigError: The kind is missing or unknown, or the number or order of values is wrong.
        """
        if not isinstance(spec, Mapping):
            raise ConfigError(f"search.{path}: must be like {{loguniform: [1e-4, 1e-2]}}, got {spec!r}")
        kinds = [key for key in spec if key not in ("when", "balanced")]
        if len(kinds) != 1:
            raise ConfigError(f"search.{path}: must name one distribution, got {kinds}")
        kind, values = kinds[0], spec[kinds[0]]
        if kind not in DISTRIBUTIONS:
            raise ConfigError(
                f"search.{path}: distribution {kind!r} is unknown; {nearest(kind, list(DISTRIBUTIONS))}"
            )
        given = spec.get("when", {})
        if not isinstance(given, Mapping):
            raise ConfigError(
                f"search.{path}: `when` must be like {{method.prompts: [both, mask]}}, got {given!r}"
            )
        # A single value is accepted in place of a list of one.
        when = {key: tuple(v if isinstance(v, list) else [v]) for key, v in given.items()}
        balanced = spec.get("balanced", False)
        if balanced not in (True, False) or (balanced and (kind != "choice" or when)):
            raise ConfigError(
                f"search.{path}: `balanced` must be true or false, of a choice without `when`, got {spec!r}"
            )
        return cls(path, kind, _check_values(path, kind, values), when, balanced)

    @property
    def name(self) -> str:
        """Name of the parameter in Optuna: the path, with the conditions of an alternative."""
        return f"{self.path}{self._conditions}" if self.is_alternative else self.path

    def _excludes(self, other: Self) -> bool:
        """Return whether the conditions of two distributions never hold at the same time."""
        shared = self.when.keys() & other.when.keys()
        return any(not set(self.when[path]) & set(other.when[path]) for path in shared)

    def applies(self, settings: Overrides) -> bool:
        """Return whether the conditions in `when` hold for the given settings."""
        return all(settings.get(path) in allowed for path, allowed in self.when.items())

    def suggest(self, trial: Suggests) -> Any:
        """Draw a value through Optuna's interface."""
        if self.kind == "choice":
            return trial.suggest_categorical(self.name, list(self.values))
        low, high = self.values[:2]
        if self.kind == "int":
            return trial.suggest_int(self.name, low, high)
        if self.kind == "quantised":
            step = self.values[2]
            # Integer bounds and step give integers, so that settings such as a depth pass their validation.
            if all(isinstance(value, int) for value in self.values):
                return trial.suggest_int(self.name, low, high, step=step)
            return _on_grid(trial.suggest_float(self.name, low, high, step=step))
        return trial.suggest_float(self.name, low, high, log=self.kind == "loguniform")

    def find(self, value: Any) -> Any:
        """Return the value of this distribution that equals `value`.

        Raises:
            ValueError: `value` is outside of the distribution.
        """
        equal = self._among_choices(value) if self.kind == "choice" else self._within_bounds(value)
        if not equal:
            raise ValueError(f"{self.path} = {value!r} is outside of {self}")
        return equal[0]

    def _among_choices(self, value: Any) -> list[Any]:
        # In Python True equals 1, but they are different choices.
        return [v for v in self.values if v == value and isinstance(v, bool) == isinstance(value, bool)]

    def _within_bounds(self, value: Any) -> list[Any]:
        low, high = self.values[:2]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            return []
        if self.kind not in ("int", "quantised"):
            return [float(value)]
        # The tolerance accepts values that were written to a file and read again.
        step = 1 if self.kind == "int" else self.values[2]
        nearest_step = low + round((value - low) / step) * step
        is_on_grid = math.isclose(nearest_step, value, rel_tol=1e-9, abs_tol=1e-12)
        return [_on_grid(nearest_step)] if is_on_grid else []

    @property
    def edges(self) -> tuple[Any, ...]:
        """All values of a choice, or the two bounds of another kind."""
        return self.values if self.kind == "choice" else self.values[:2]

    @property
    def domain(self) -> Domain:
        """Kind and values for a table of hyperparameters: the choices, or the bounds."""
        return ("choice" if self.kind == "choice" else "interval"), self.edges

    def __str__(self) -> str:
        listed = ", ".join(str(value) for value in self.values)
        balanced = " balanced" if self.balanced else ""
        return f"{self.kind}({listed}){balanced}{self._conditions}"

    @property
    def _conditions(self) -> str:
        return "".join(f" when {k} in {list(v)}" for k, v in self.when.items())


def _on_grid(value: float) -> float:
    """Round a float so that a grid point has one value: 0.1 + 2 * 0.1 is not 0.3."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _check_values(path: str, kind: str, values: Any) -> tuple[Any, ...]:
    expected = {"choice": "at least one value", "quantised": "[low, high, step]"}.get(kind, "[low, high]")
    count = {"choice": None, "quantised": 3}.get(kind, 2)
    if not isinstance(values, list) or not values or (count is not None and len(values) != count):
        raise ConfigError(f"search.{path}: {kind} needs {expected}, got {values!r}")
    # Choices keep their order: it is part of the study's identity.
    if kind == "choice":
        _check_choices(path, values)
        return tuple(values)
    numbers = tuple(_number(path, kind, value) for value in values)
    low, high = numbers[:2]
    if low > high:
        raise ConfigError(f"search.{path}: bounds must be [low, high], got [{low}, {high}] reversed")
    if kind == "loguniform" and low <= 0:
        raise ConfigError(f"search.{path}: loguniform needs low > 0, got {low}")
    if kind == "quantised" and numbers[2] <= 0:
        raise ConfigError(f"search.{path}: quantised needs step > 0, got {numbers[2]}")
    return numbers


def _check_choices(path: str, values: list[Any]) -> None:
    for value in values:
        if not isinstance(value, str | int | float | bool | None):
            raise ConfigError(
                f"search.{path}: a choice must be a string, number, bool or null, got {value!r}"
            )
    # The type counts: 1, 1.0 and True are equal in Python and would be one element of a set.
    if len({(type(value), value) for value in values}) < len(values):
        raise ConfigError(f"search.{path}: choices must differ, got {values}")


def _number(path: str, kind: str, value: Any) -> float | int:
    # PyYAML reads 1e-4 as a string, because YAML 1.1 requires 1.0e-4. The number is meant.
    try:
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"search.{path}: {kind} needs numbers, got {value!r}") from None
    if kind == "int" and number != int(number):
        raise ConfigError(f"search.{path}: int needs whole numbers, got {value!r}")
    return int(number) if kind == "int" else number
