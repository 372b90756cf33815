"""Search spaces: a YAML of fixed overrides and of dotted paths with distributions, checked on load.

    fixed:                                  # overrides of the experiment
      backbone.name: ViT-B-16
    search:                                 # dotted path -> one distribution
      optim.lr:          {loguniform: [1.0e-4, 1.0e-2]}
      method.prompts:    {choice: [both, mask, context]}
      method.mask.depth: {int: [1, 3], when: {method.prompts: [both, mask]}}
      view.num_frames:   {choice: [8, 16]}
    study:
      trials: 32

`choice` takes any listed value; `uniform` and `loguniform` a float in [low, high]; `int` an integer
in [low, high]; `quantised` low, low + step, ... up to high. `when` makes a path exist only where
other settings have one of the listed values. Every path, and every value at the edge of its
distribution, is validated against the experiment's schema before anything starts.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from evclip_ray.config import Config, ConfigError, Overrides, nearest, override, read_yaml
from evclip_ray.training.experiment import ExperimentConfig

DISTRIBUTIONS = ("choice", "uniform", "loguniform", "int", "quantised")
_DECODED = ("data.", "view.")
"""Paths that change which pixels are decoded: they must be choices, so that each is decoded once."""


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


class StudyConfig(Config):
    """How a space is searched."""

    trials: int | None = Field(None, ge=1, description="None: 16, or with a time budget as many as fit in it")
    sampler: Literal["tpe", "random"] = "tpe"
    scheduler: Literal["asha", "hyperband", "none"] = "asha"
    grace_epochs: int = Field(2, ge=1, description="epochs before a trial may be stopped")
    reduction_factor: int = Field(3, ge=2, description="one in so many trials goes on at each rung")
    seed: int = Field(0, ge=0)
    workers: int = Field(1, ge=1, description="training processes of one trial")
    cpus: float = Field(1, gt=0, description="CPUs of one worker")
    gpus: float | None = Field(None, ge=0, description="GPUs of one worker; None: 1 where there are any")
    memory_gb: float = Field(1.5, gt=0, description="memory of one worker")
    pack: int = Field(
        1, ge=1, description="trials that train in one process, frames together; its CPUs and GPUs are theirs"
    )
    max_failures: int = Field(2, ge=0, description="restarts of a trial whose worker died")
    warm_points: int = Field(3, ge=0, description="best points of an earlier study that are run first")
    price_per_hour: float | None = Field(
        None, ge=0, description="of one GPU, or of one CPU where trials have no GPU; for the estimate"
    )

    @model_validator(mode="after")
    def _packs_are_filled_and_in_one_process(self) -> Self:
        if self.pack > 1 and self.workers > 1:
            raise ValueError(
                f"a pack is one process, and a trial of {self.workers} workers is none: "
                f"set workers or pack to 1, got pack {self.pack}"
            )
        if self.trials is not None and self.pack > self.trials:
            raise ValueError(f"pack must be at most the number of trials, {self.trials}; got {self.pack}")
        return self


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


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """A validated space: the settings all trials share, and what is searched."""

    name: str
    fixed: Mapping[str, Any]
    search: tuple[Distribution, ...]
    study: StudyConfig

    @classmethod
    def load(
        cls,
        name: str,
        data: Mapping[str, Any],
        overrides: Overrides | None = None,
        *,
        study: Mapping[str, Any] | None = None,
    ) -> Self:
        """Validate a space; `overrides` pin settings, searched ones included; `study` replaces its own.

        Raises:
            ConfigError: naming the path, the value and the nearest valid name.
        """
        # `ladder` says which settings `scale` climbs along; one study has them as they are fixed.
        known = ["fixed", "search", "study", "ladder"]
        for key in data:
            if key not in known:
                raise ConfigError(f"{name}: {key!r} is no part of a search space; {nearest(key, known)}")
        pinned = dict(overrides or {})
        fixed = override({}, {**(data.get("fixed") or {}), **pinned})
        listed = data.get("search") or {}
        search = tuple(Distribution.parse(path, spec) for path, spec in listed.items() if path not in pinned)
        space = cls(name, fixed, search, StudyConfig.load(data.get("study") or {}, study))
        space._check()
        return space

    def experiment(self, overrides: Overrides | None = None) -> ExperimentConfig:
        """The experiment of one point."""
        return ExperimentConfig.load(self.fixed, overrides)

    def sample(self, trial: Suggests) -> dict[str, Any]:
        """Draw the overrides of one trial."""
        drawn: dict[str, Any] = {}
        for distribution in self.search:
            if distribution.applies(self._settings(drawn)):
                drawn[distribution.path] = distribution.suggest(trial)
        return drawn

    def point_of(self, settings: Overrides) -> dict[str, Any]:
        """The point of this space at which an experiment with these (flat) settings lies.

        Raises:
            ValueError: none: a searched path that it has not, or a value outside of the distribution.
        """
        point: dict[str, Any] = {}
        for distribution in self.search:
            if distribution.applies(self._settings(point)):
                if distribution.path not in settings:
                    raise ValueError(f"{distribution.path} is no setting of it")
                point[distribution.path] = distribution.find(settings[distribution.path])
        return point

    def seed_of(self, overrides: Overrides) -> int:
        """The seed of the run that these overrides give."""
        default = ExperimentConfig.model_fields["seed"].default
        return int(overrides.get("seed", flatten(self.fixed).get("seed", default)))

    def decoded_variants(self) -> Iterator[dict[str, Any]]:
        """Every combination of the searched settings that change what is decoded."""
        axes = [d for d in self.search if d.path.startswith(_DECODED)]
        for values in itertools.product(*(axis.values for axis in axes)):
            yield {axis.path: value for axis, value in zip(axes, values, strict=True)}

    def describe(self) -> dict[str, Any]:
        """What makes this space this space, for digests and for people."""
        return {"fixed": dict(self.fixed), "search": {d.path: str(d) for d in self.search}}

    def _settings(self, drawn: Overrides) -> dict[str, Any]:
        """The value of every setting that a `when` may name, drawn ones on top."""
        return {**flatten(self.fixed), **drawn}

    def _check(self) -> None:
        base: dict[str, Any] = {}
        for position, distribution in enumerate(self.search):
            self._check_conditions(distribution, position)
            if distribution.path.startswith(_DECODED) and distribution.kind != "choice":
                raise ConfigError(
                    f"search.{distribution.path}: changes which pixels are decoded, so it must be a "
                    f"'choice' of listed values, got {distribution.kind!r}"
                )
            if distribution.applies(self._settings(base)):
                base[distribution.path] = distribution.values[0]
        self._check_point(base)
        for distribution in self.search:
            needed = {path: allowed[0] for path, allowed in distribution.when.items()}
            for value in distribution.edges:
                try:
                    self._check_point({**base, **needed, distribution.path: value})
                except ConfigError as error:
                    raise ConfigError(f"search.{distribution.path} = {value!r}: {error}") from None

    def _check_point(self, overrides: Overrides) -> None:
        method = self.experiment(overrides).method
        if not method.trains:
            raise ConfigError(
                f"method {method.name!r} has nothing to train; it is scored beside every trial anyway"
            )

    def _check_conditions(self, distribution: Distribution, position: int) -> None:
        earlier = [d.path for d in self.search[:position]]
        for path in distribution.when:
            if path not in earlier and path not in flatten(self.fixed):
                raise ConfigError(
                    f"search.{distribution.path}: its 'when' names {path!r}, which must be listed "
                    f"before it or be fixed; {nearest(path, [*earlier, *flatten(self.fixed)])}"
                )


def find_space(name: str) -> Path:
    """A space by its path, or a shipped one by its name (`quickstart`, `search_spaces/quickstart.yaml`).

    Raises:
        ConfigError: neither (the shipped names are listed).
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_spaces()
    if path.stem in shipped and path.suffix in {"", ".yaml"} and str(path.parent) in {".", "search_spaces"}:
        return shipped[path.stem]
    raise ConfigError(
        f"search space {name!r}: no such file, and none is shipped by that name; "
        f"{nearest(path.stem, list(shipped))}"
    )


def shipped_spaces() -> dict[str, Path]:
    """The spaces that come with the package, by name."""
    package = Path(__file__).resolve().parents[1]
    installed, checkout = package / "search_spaces", package.parent / "search_spaces"
    folder = installed if installed.is_dir() else checkout
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_space(
    path: Path, overrides: Overrides | None = None, *, study: Mapping[str, Any] | None = None
) -> SearchSpace:
    """The space in a YAML file, with settings pinned and the study's own replaced."""
    return SearchSpace.load(path.stem, read_yaml(path), overrides, study=study)


def without_seed(overrides: Overrides) -> dict[str, Any]:
    """A point, whatever the seed that it is run with."""
    return {path: value for path, value in overrides.items() if path != "seed"}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree as dotted paths.

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
