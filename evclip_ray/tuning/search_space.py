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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from evclip_ray.config import Config, ConfigError, Overrides, flatten, nearest, override, read_yaml
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.resources import GIB, ResourceRequest
from evclip_ray.tuning.distributions import Distribution, Suggests

_DECODED = ("data.", "view.")
"""Paths that change which pixels are decoded: they must be choices, so that each is decoded once."""

PACKING_REMOVED = (
    "trial packing was removed. Let trials share a GPU with --gpus-per-worker 0.25 (four trials per GPU)."
)
"""The replacement of the removed setting `study.pack` and option `--pack`."""


class StudyConfig(Config):
    """How a space is searched."""

    trials: int | None = Field(None, ge=1, description="None: 16, or with a time budget as many as fit in it")
    sampler: Literal["tpe", "random"] = "tpe"
    scheduler: Literal["asha", "hyperband", "none"] = "asha"
    grace_epochs: int = Field(2, ge=1, description="epochs before a trial may be stopped")
    reduction_factor: int = Field(3, ge=2, description="one in so many trials goes on at each rung")
    seed: int = Field(0, ge=0)
    workers: int = Field(1, ge=1, description="training processes of one trial")
    min_workers: int | None = Field(
        None, ge=1, description="so many go on where machines are lost; None: all of them are waited for"
    )
    cpus: float = Field(1, gt=0, description="CPUs of one worker")
    gpus: float | None = Field(None, ge=0, description="GPUs of one worker; None: 1 where there are any")
    memory_gb: float = Field(1.5, gt=0, description="memory of one worker")
    max_failures: int = Field(2, ge=0, description="restarts of a trial whose worker died")
    warm_points: int = Field(3, ge=0, description="best points of an earlier study that are run first")
    price_per_hour: float | None = Field(
        None, ge=0, description="of one GPU, or of one CPU where trials have no GPU; for the estimate"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_replacement_of_packs(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "pack" in data:
            raise ValueError(f"`study.pack`: {PACKING_REMOVED}")
        return data

    @model_validator(mode="after")
    def _groups_are_possible(self) -> Self:
        self.request([])
        return self

    def request(self, machines: Sequence[Mapping[str, float]]) -> ResourceRequest:
        """What a trial asks for; of GPUs one a worker where the machines have any.

        Raises:
            ValueError: fewer workers at least than one, or more than at most.
        """
        gpus = self.gpus
        if gpus is None:
            gpus = float(any(machine.get("GPU", 0) > 0 for machine in machines))
        return ResourceRequest(self.cpus, gpus, self.memory_gb * GIB, self.workers, self.min_workers)


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
        if "study.pack" in flatten(fixed):
            raise ConfigError(f"`study.pack`: {PACKING_REMOVED}")
        listed = data.get("search") or {}
        search = tuple(Distribution.parse(path, spec) for path, spec in listed.items() if path not in pinned)
        return cls(name, fixed, search, StudyConfig.load(data.get("study") or {}, study))._checked()

    def replace(self, overrides: Overrides | None = None, *, study: Mapping[str, Any] | None = None) -> Self:
        """Return this space with settings pinned by `overrides` and with study settings replaced.

        Raises:
            ConfigError: A setting is unknown or out of its range.
        """
        pinned = dict(overrides or {})
        return type(self)(
            self.name,
            override(self.fixed, pinned),
            tuple(distribution for distribution in self.search if distribution.path not in pinned),
            StudyConfig.load(self.study.model_dump(), study),
        )._checked()

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

    def _checked(self) -> Self:
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
        return self

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
