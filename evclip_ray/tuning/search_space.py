"""Search spaces: a YAML file with fixed settings and distributions for dotted paths, checked on load.

    fixed:                                  # overrides of the experiment
      backbone.name: ViT-B-16
    search:                                 # dotted path -> one distribution
      optim.lr:          {loguniform: [1.0e-4, 1.0e-2]}
      method.prompts:    {choice: [both, mask, context]}
      method.mask.depth: {int: [1, 3], when: {method.prompts: [both, mask]}}
      view.num_frames:   {choice: [8, 16]}
    study:
      trials: 32

`choice` draws one of the listed values, `uniform` and `loguniform` a float in [low, high], `int` an integer
in [low, high], and `quantised` one of low, low + step, ... up to high. With `when`, a path exists only where
other settings have one of the listed values. Every path, and every value at the edge of its distribution, is
validated against the experiment's schema before anything starts. A fixed setting that only some of the
searched methods have applies to these methods.

A fair comparison of methods needs two more forms:

    search:
      method.name: {choice: [coop, fine_tune], balanced: true}
      optim.lr:
        - {loguniform: [1.0e-4, 1.0e-2], when: {method.name: coop}}
        - {loguniform: [5.0e-7, 5.0e-5], when: {method.name: fine_tune}}

With `balanced`, every value gets the same number of trials, and the sampler and the scheduler compare trials
of the same value only. A path with a list has one distribution for each condition; they are independent
parameters of the sampler.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from evclip_ray.config import Config, ConfigError, Overrides, flatten, nearest, override, read_yaml
from evclip_ray.objective import BEST, check_objective
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.resources import GIB, ResourceRequest
from evclip_ray.tuning.conditions import check_choices, check_conditions, conditions_of, setting_of
from evclip_ray.tuning.distributions import Distribution, Domain, Suggests
from evclip_ray.tuning.method_settings import with_conditions

_DECODED = ("data.", "view.")
"""Paths that change the decoded pixels. They must be choices, so that each variant is decoded once."""
_NAMES = ("method.name", "backbone.name")
"""Settings that decide which other settings exist and which values these have."""

PACKING_REMOVED = (
    "trial packing was removed. Let trials share a GPU with --gpus-per-worker 0.25 (four trials per GPU)."
)
"""The replacement of the removed setting `study.pack` and option `--pack`."""


class StudyConfig(Config):
    """Settings of the search itself."""

    trials: int | None = Field(
        None, ge=1, description="trials in total; None means 16, or with a time budget as many as fit"
    )
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="how points are drawn: 'tpe' near the best points so far, or 'random'"
    )
    scheduler: Literal["asha", "hyperband", "none"] = Field(
        "asha", description="how trials are stopped early; 'none' runs every trial to its last epoch"
    )
    objective: str = Field(
        BEST,
        description="value of a trial: validation top-1 of its best epoch (best) or last epoch (last), or "
        "the mean over its last K epochs (mean_of_last_K)",
    )
    grace_epochs: int = Field(2, ge=1, description="epochs before a trial may be stopped")
    reduction_factor: int = Field(3, ge=2, description="at each rung one in this many trials continues")
    seed: int = Field(0, ge=0, description="seed of the sampler")
    workers: int = Field(1, ge=1, description="training processes of one trial")
    min_workers: int | None = Field(
        None, ge=1, description="workers with which a trial continues after machines are lost; None waits"
    )
    cpus: float = Field(1, gt=0, description="CPUs of one worker")
    gpus: float | None = Field(
        None,
        ge=0,
        description="GPUs of one worker; None follows from trials_per_gpu",
    )
    trials_per_gpu: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        exclude_if=lambda value: value == "auto",
        description="trials that share a GPU if gpus is not set; 'auto' measures how many fit",
    )
    memory_gb: float = Field(1.5, gt=0, description="memory of one worker in GiB")
    max_failures: int = Field(2, ge=0, description="restarts of a trial whose worker died")
    warm_points: int = Field(3, ge=0, description="best points of an earlier study to run first")
    price_per_hour: float | None = Field(
        None, ge=0, description="price of one GPU, or of one CPU if trials use no GPU, for the estimate"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_replacement_of_packs(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "pack" in data:
            raise ValueError(f"`study.pack`: {PACKING_REMOVED}")
        return data

    @field_validator("objective")
    @classmethod
    def _objective_exists(cls, objective: str) -> str:
        return check_objective(objective)

    @model_validator(mode="after")
    def _groups_are_possible(self) -> Self:
        # `ResourceRequest` checks the numbers of workers; no machines are needed for that.
        self.request([])
        return self

    def request(self, machines: Sequence[Mapping[str, float]]) -> ResourceRequest:
        """Return the resources of a trial. A worker gets one GPU by default if any machine has GPUs.

        Args:
            machines: Ray resources of each machine.

        Raises:
            ValueError: `min_workers` is below 1 or above `workers`.
        """
        gpus = self.gpus
        if gpus is None:
            gpus = float(any(machine.get("GPU", 0) > 0 for machine in machines))
        return ResourceRequest(self.cpus, gpus, self.memory_gb * GIB, self.workers, self.min_workers)


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """Validated search space.

    Attributes:
        name: Name of the space.
        fixed: Settings that all trials share.
        search: Distributions of the searched settings, in order.
        study: Settings of the search itself.
    """

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
        """Validate a space.

        Args:
            name: Name of the space.
            data: Content of its YAML file.
            overrides: Dotted path -> value. They fix settings, also searched ones.
            study: Settings that replace those of the section `study`.

        Raises:
            ConfigError: A setting is invalid. The message names the path, the value and the nearest valid
                name.
        """
        # `ladder` lists the settings that `scale` varies. A single study uses their fixed values.
        known = ["fixed", "search", "study", "ladder"]
        for key in data:
            if key not in known:
                raise ConfigError(f"{name}: unknown section {key!r}; {nearest(str(key), known)}")
            if not isinstance(data[key] or {}, Mapping):
                raise ConfigError(f"{name}: {key} must be a mapping of settings, got {data[key]!r}")
        pinned = dict(overrides or {})
        given = data.get("fixed") or {}
        # Groups come first: `optim: {lr: 1}` after `optim.epochs: 5` would replace the whole group.
        grouped = dict(sorted(given.items(), key=lambda item: not isinstance(item[1], Mapping)))
        fixed = _without_unset_world(override(override({}, grouped), pinned))
        if "study.pack" in flatten(fixed):
            raise ConfigError(f"`study.pack`: {PACKING_REMOVED}")
        if misplaced := [path for path in flatten(fixed) if path.startswith("study.")]:
            raise ConfigError(
                f"{misplaced[0]}: is a setting of the search, not of an experiment. Set it in the section "
                "`study` of the space, or by an option of `tune` (--trials for study.trials)"
            )
        listed = data.get("search") or {}
        search = tuple(
            distribution
            for path, spec in listed.items()
            if path not in pinned
            for distribution in Distribution.parse_all(path, spec)
        )
        settings = _study_settings(data.get("study") or {}, study)
        free = {*pinned, *_ladder_paths(data.get("ladder"))}
        space = cls(name, *with_conditions(fixed, search), settings)._checked(free)
        check_conditions(space.search, flatten(space.fixed), space._experiment_with, free=free)
        return space

    def replace(self, overrides: Overrides | None = None, *, study: Mapping[str, Any] | None = None) -> Self:
        """Return this space with settings pinned by `overrides` and with study settings replaced.

        Raises:
            ConfigError: A setting is unknown or out of its range.
        """
        pinned = dict(overrides or {})
        search = (distribution for distribution in self.search if distribution.path not in pinned)
        settings = _study_settings(self.study.model_dump(), study)
        return type(self)(
            self.name, *with_conditions(_without_unset_world(override(self.fixed, pinned)), search), settings
        )._checked()

    def experiment(self, overrides: Overrides | None = None) -> ExperimentConfig:
        """Return the experiment of one point.

        Args:
            overrides: Dotted path -> value.
        """
        return ExperimentConfig.load(self.fixed, overrides)

    def sample(self, trial: Suggests) -> dict[str, Any]:
        """Draw the overrides of one trial."""
        drawn: dict[str, Any] = {}
        for distribution in self.search:
            # The order of the YAML file counts: a condition may refer to settings that were drawn before.
            if distribution.applies(self._settings(drawn)):
                drawn[distribution.path] = distribution.suggest(trial)
        return drawn

    def point_of(self, settings: Overrides) -> dict[str, Any]:
        """Return the point of this space that corresponds to the settings of an experiment.

        Args:
            settings: Settings by dotted path.

        Raises:
            ValueError: A searched path is missing, or its value is outside of the distribution.
        """
        point: dict[str, Any] = {}
        for distribution in self.search:
            if distribution.applies(self._settings(point)):
                if distribution.path not in settings:
                    raise ValueError(f"{distribution.path} is not a setting of the experiment")
                # `find` returns the space's own value: 3 for 3.0, or the point of the grid despite rounding.
                point[distribution.path] = distribution.find(settings[distribution.path])
        return point

    def seed_of(self, overrides: Overrides) -> int:
        """Return the seed of the run with these overrides."""
        default = ExperimentConfig.model_fields["seed"].default
        return int(overrides.get("seed", flatten(self.fixed).get("seed", default)))

    def decoded_variants(self) -> Iterator[dict[str, Any]]:
        """Yield all combinations of the searched settings that change the decoded pixels."""
        # Conditions are ignored, so a few combinations may never be drawn; their videos are decoded
        # needlessly.
        axes = [d for d in self.search if self._changes_pixels(d)]
        for values in itertools.product(*(axis.values for axis in axes)):
            yield {axis.path: value for axis, value in zip(axes, values, strict=True)}

    def _changes_pixels(self, axis: Distribution) -> bool:
        if axis.path != "backbone.name":
            return axis.path.startswith(_DECODED)
        # The default size of the stored frames follows the input of the backbone.
        views = set()
        for value in axis.values:
            with contextlib.suppress(ConfigError):
                views.add(self.experiment({axis.path: value}).view)
        return len(views) > 1

    def describe(self) -> dict[str, Any]:
        """Return the fixed and the searched settings, for digests and for display.

        The result is part of a study's identity on disk and must not change between versions.
        """
        search: dict[str, str] = {}
        for distribution in self.search:
            before = f"{search[distribution.path]}; " if distribution.path in search else ""
            search[distribution.path] = f"{before}{distribution}"
        return {"fixed": dict(self.fixed), "search": search}

    @property
    def balanced(self) -> Distribution | None:
        """Choice of which each value gets the same number of trials, if there is one."""
        return next((distribution for distribution in self.search if distribution.balanced), None)

    @property
    def domains(self) -> dict[str, Domain]:
        """Domain of each searched path, over all its distributions."""
        domains: dict[str, Domain] = {}
        for distribution in self.search:
            kind, values = distribution.domain
            if distribution.path in domains:
                merged = tuple(dict.fromkeys((*domains[distribution.path][1], *values)))
                values = merged if kind == "choice" else (min(merged), max(merged))
            domains[distribution.path] = kind, values
        return domains

    def params_of(self, point: Overrides) -> dict[str, Any]:
        """Return Optuna's parameters of a point: its values by the names of their distributions."""
        return {
            distribution.name: point[distribution.path]
            for distribution in self.search
            if distribution.path in point and distribution.applies(self._settings(point))
        }

    def _settings(self, drawn: Overrides) -> dict[str, Any]:
        """Return the settings that conditions may refer to; drawn values replace fixed ones."""
        return {**flatten(self.fixed), **drawn}

    def _checked(self, free: Collection[str] = ()) -> Self:
        for position, distribution in enumerate(self.search):
            self._check_order(distribution, position)
            if distribution.path.startswith(_DECODED) and distribution.kind != "choice":
                raise ConfigError(
                    f"search.{distribution.path}: this setting changes the decoded pixels, so it must be a "
                    f"'choice' of listed values, got {distribution.kind!r}"
                )
        self._check_point(self.first_point())
        self._check_repeated()
        for distribution in self.search:
            # Each edge is tried with its conditions fulfilled. Errors appear on load instead of hours later
            # in a trial.
            needed = conditions_of(distribution, self.search, flatten(self.fixed), free=free)
            # None: an override excludes the setting, or `check_conditions` reports it.
            if needed is not None:
                self._check_edges(distribution, needed)
        return self

    def _check_edges(self, distribution: Distribution, needed: Overrides) -> None:
        settings = []
        for value in distribution.edges:
            try:
                experiment = self._check_point(self._completed({**needed, distribution.path: value}))
            except ConfigError as error:
                raise ConfigError(f"search.{distribution.path} = {value!r}: {error}") from None
            settings.append(setting_of(experiment, distribution.path, value))
        if distribution.kind == "choice":
            check_choices(distribution, settings)

    def _experiment_with(self, distribution: Distribution, path: str, value: Any) -> ExperimentConfig:
        """Return an experiment with one value of a condition, see `check_conditions`."""
        needed = {name: allowed[0] for name, allowed in distribution.when.items()}
        point = self._completed({**needed, path: value})
        try:
            return self.experiment(point)
        except ConfigError:
            # Other settings of the space may exclude the value; alone it may be valid.
            named = {name: v for name, v in self._settings(point).items() if name in _NAMES}
            return ExperimentConfig.load({"data": {"manifest": "."}}, {**named, path: value})

    def first_point(self) -> dict[str, Any]:
        """Return the point with the first value of every setting that exists."""
        return self._completed({})

    def _completed(self, point: dict[str, Any]) -> dict[str, Any]:
        """Return a point with the first value of every other setting that exists with the given ones."""
        completed = dict(point)
        for distribution in self.search:
            if distribution.path not in completed and distribution.applies(self._settings(completed)):
                completed[distribution.path] = distribution.values[0]
        return completed

    def _check_repeated(self) -> None:
        balanced = [distribution.path for distribution in self.search if distribution.balanced]
        if len(balanced) > 1:
            raise ConfigError(f"search: only one setting can be balanced, got {', '.join(balanced)}")
        for distribution in self.search:
            if distribution.is_alternative and distribution.path.startswith(_DECODED):
                raise ConfigError(
                    f"search.{distribution.path}: this setting changes the decoded pixels, so it must be one "
                    "'choice' and not a list of distributions"
                )

    def _check_point(self, overrides: Overrides) -> ExperimentConfig:
        experiment = self.experiment(overrides)
        method = experiment.method
        if not method.trains:
            raise ConfigError(
                f"method {method.name!r} has nothing to train. Its score is listed with every study anyway."
            )
        return experiment

    def _check_order(self, distribution: Distribution, position: int) -> None:
        earlier = [d.path for d in self.search[:position]]
        for path in distribution.when:
            if path not in earlier and path not in flatten(self.fixed):
                raise ConfigError(
                    f"search.{distribution.path}: 'when' refers to {path!r}, which must be listed before it "
                    f"or be fixed; {nearest(path, [*earlier, *flatten(self.fixed)])}"
                )


def read_space(
    path: Path, overrides: Overrides | None = None, *, study: Mapping[str, Any] | None = None
) -> SearchSpace:
    """Read a space from a YAML file.

    Args:
        path: YAML file.
        overrides: Dotted path -> value. They fix settings, also searched ones.
        study: Settings that replace those of the section `study`.
    """
    return SearchSpace.load(path.stem, read_yaml(path), overrides, study=study)


def _study_settings(given: Mapping[str, Any], replaced: Mapping[str, Any] | None) -> StudyConfig:
    try:
        return StudyConfig.load(given, replaced)
    except ConfigError as error:
        lines = (line if line.startswith("`") else f"study.{line}" for line in str(error).splitlines())
        raise ConfigError("\n".join(lines)) from None


def _ladder_paths(ladder: Any) -> set[str]:
    """Return the paths that the steps of a ladder set. `Ladder` validates the section."""
    steps = ladder.get("rungs") if isinstance(ladder, Mapping) else None
    if isinstance(steps, Mapping):
        return {path for chosen in steps.values() if isinstance(chosen, Mapping) for path in flatten(chosen)}
    return {str(ladder.get("over", "backbone.name"))} if isinstance(ladder, Mapping) else set()


def _without_unset_world(fixed: dict[str, Any]) -> dict[str, Any]:
    """Return fixed settings without `data.world: null`.

    `--data` sets it, because a space can have one source of videos. Digests of studies that were begun before
    this setting existed stay equal without it.
    """
    if isinstance(data := fixed.get("data"), dict) and data.get("world", ...) is None:
        return {**fixed, "data": {name: value for name, value in data.items() if name != "world"}}
    return fixed


def without_seed(overrides: Overrides) -> dict[str, Any]:
    """Return a point without the seed of its run."""
    return {path: value for path, value in overrides.items() if path != "seed"}
