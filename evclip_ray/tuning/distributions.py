"""One searched path of a search space: its distribution, what it depends on, and which values it has."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self

from evclip_ray.config import ConfigError, Overrides, nearest

DISTRIBUTIONS = ("choice", "uniform", "loguniform", "int", "quantised")


class Suggests(Protocol):
    """The part of an Optuna trial that sampling needs."""

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """One of `choices`."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A float in [low, high]."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int:
        """An integer in [low, high]."""


@dataclasses.dataclass(frozen=True)
class Distribution:
    """One searched path: its kind, its arguments, and the settings it depends on."""

    path: str
    kind: str
    values: tuple[Any, ...]
    when: Mapping[str, tuple[Any, ...]]

    @classmethod
    def parse(cls, path: str, spec: Any) -> Self:
        """Read `{kind: [...], when: {...}}`.

        Raises:
            ConfigError: no or unknown kind, wrong number of values, reversed bounds.
        """
        if not isinstance(spec, Mapping):
            raise ConfigError(f"search.{path}: must be like {{loguniform: [1e-4, 1e-2]}}, got {spec!r}")
        kinds = [key for key in spec if key != "when"]
        if len(kinds) != 1:
            raise ConfigError(f"search.{path}: must name one distribution, got {kinds}")
        kind, values = kinds[0], spec[kinds[0]]
        if kind not in DISTRIBUTIONS:
            raise ConfigError(
                f"search.{path}: distribution {kind!r} is unknown; {nearest(kind, list(DISTRIBUTIONS))}"
            )
        when = {key: tuple(v if isinstance(v, list) else [v]) for key, v in spec.get("when", {}).items()}
        return cls(path, kind, _check_values(path, kind, values), when)

    def applies(self, settings: Overrides) -> bool:
        """Whether the settings that `when` names have one of the values it lists."""
        return all(settings.get(path) in allowed for path, allowed in self.when.items())

    def suggest(self, trial: Suggests) -> Any:
        """A value, through Optuna's interface."""
        if self.kind == "choice":
            return trial.suggest_categorical(self.path, list(self.values))
        low, high = self.values[:2]
        if self.kind == "int":
            return trial.suggest_int(self.path, low, high)
        if self.kind == "quantised":
            step = self.values[2]
            if all(isinstance(value, int) for value in self.values):
                return trial.suggest_int(self.path, low, high, step=step)
            return _on_grid(trial.suggest_float(self.path, low, high, step=step))
        return trial.suggest_float(self.path, low, high, log=self.kind == "loguniform")

    def find(self, value: Any) -> Any:
        """The value of this distribution that equals `value`.

        Raises:
            ValueError: it has none.
        """
        same = self._among_choices(value) if self.kind == "choice" else self._within_bounds(value)
        if not same:
            raise ValueError(f"{self.path} = {value!r} is outside of {self}")
        return same[0]

    def _among_choices(self, value: Any) -> list[Any]:
        # True equals 1, but is another choice.
        return [v for v in self.values if v == value and isinstance(v, bool) == isinstance(value, bool)]

    def _within_bounds(self, value: Any) -> list[Any]:
        low, high = self.values[:2]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            return []
        if self.kind not in ("int", "quantised"):
            return [float(value)]
        step = 1 if self.kind == "int" else self.values[2]
        nearest_step = low + round((value - low) / step) * step
        same = math.isclose(nearest_step, value, rel_tol=1e-9, abs_tol=1e-12)
        return [_on_grid(nearest_step)] if same else []

    @property
    def edges(self) -> tuple[Any, ...]:
        """Every value of a choice, the two ends of anything else."""
        return self.values if self.kind == "choice" else self.values[:2]

    @property
    def domain(self) -> tuple[Literal["choice", "interval"], tuple[Any, ...]]:
        """What a table of hyperparameters says of it: its values, or the ends of its interval."""
        return ("choice" if self.kind == "choice" else "interval"), self.edges

    def __str__(self) -> str:
        listed = ", ".join(str(value) for value in self.values)
        depends = "".join(f" when {k} in {list(v)}" for k, v in self.when.items())
        return f"{self.kind}({listed}){depends}"


def _on_grid(value: float) -> float:
    """One float for one grid point: 0.1 + 2 * 0.1 is not 0.3."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


def _check_values(path: str, kind: str, values: Any) -> tuple[Any, ...]:
    wanted = {"choice": "at least one value", "quantised": "[low, high, step]"}.get(kind, "[low, high]")
    count = {"choice": None, "quantised": 3}.get(kind, 2)
    if not isinstance(values, list) or not values or (count is not None and len(values) != count):
        raise ConfigError(f"search.{path}: {kind} needs {wanted}, got {values!r}")
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
    if len({(type(value), value) for value in values}) < len(values):
        raise ConfigError(f"search.{path}: choices must differ, got {values}")


def _number(path: str, kind: str, value: Any) -> float | int:
    # PyYAML reads 1e-4 as a string (YAML 1.1 wants 1.0e-4); a person means the number.
    try:
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"search.{path}: {kind} needs numbers, got {value!r}") from None
    if kind == "int" and number != int(number):
        raise ConfigError(f"search.{path}: int needs whole numbers, got {value!r}")
    return int(number) if kind == "int" else number
