"""Plan of a study before it starts: videos, trials, resources, and an upper bound of the cost."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evclip_ray.config import ConfigError, flatten
from evclip_ray.data.manifest.class_table import class_lines, class_table
from evclip_ray.data.manifest.leaks import refuse_leaks
from evclip_ray.data.transforms import view_summary
from evclip_ray.formatting import counted, duration
from evclip_ray.objective import BEST, LAST, describe
from evclip_ray.profiling.step_time import measure_step
from evclip_ray.training.class_text_check import TEXT_SETTINGS, check_class_texts
from evclip_ray.training.datamodule import is_prepared
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import feature_specs
from evclip_ray.training.resources import ResourceRequest, concurrent_trials
from evclip_ray.training.video_plan import VideoPlan
from evclip_ray.training.zero_shot import videos_key, zero_shot_key
from evclip_ray.tuning.cost import StudyCost
from evclip_ray.tuning.distributions import Distribution
from evclip_ray.tuning.gpu_share import GpuShare, Measure, gpu_share, may_share, why_not_shared
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.warm_start import WarmStart

_SCHEDULERS = {"asha": "ASHA", "hyperband": "Hyperband"}


@dataclasses.dataclass(frozen=True)
class StudyPlan:
    """Plan of a study.

    Attributes:
        space: Search space.
        request: Resources of one trial.
        concurrent: Trials at the same time.
        variants: Videos of each variant of the `data` and `view` settings.
        undecoded: Videos that are not decoded yet.
        trials: Trials in total; infinite if only the time limits them.
        missing: Trials that are not finished; infinite if only the time limits them.
        warm_start: Earlier studies whose points are run first.
        time_budget: Time limit in seconds, or None.
        cost: Cost from a measured training step; None if no step was measured.
        share: Trials that share a GPU; None if the resources are set or there is no GPU.
    """

    space: SearchSpace
    request: ResourceRequest
    concurrent: int
    variants: list[VideoPlan]
    undecoded: int
    trials: float
    missing: float
    warm_start: list[WarmStart]
    time_budget: float | None
    cost: StudyCost | None
    share: GpuShare | None = None

    @property
    def epochs(self) -> int:
        """Epochs of a trial that is not stopped."""
        return self.space.experiment().optim.epochs

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch of all runs of a trial, on the first variant of the videos."""
        return _steps_per_epoch(self.space, self.variants[0])

    def check_leaks(self) -> None:
        """Compare the bytes of videos that are not decoded yet, as their preparation will do.

        Raises:
            ManifestError: Two splits contain the same video, and leaks are not allowed.
        """
        manifests = {id(variant.manifest): variant.manifest for variant in self.variants}
        for manifest in manifests.values():
            refuse_leaks(manifest, allow=manifest.allow_leaks)

    @property
    def _runs(self) -> str:
        """Runs of a trial, if it has several."""
        folds = self.variants[0].folds
        return f" in {counted(folds + 1, 'run')} ({counted(folds, 'fold')} and all shots)" if folds else ""

    def lines(self) -> list[tuple[str, str]]:
        """Return rows of (heading, text) for display."""
        space, study, optim = self.space, self.space.study, self.space.experiment().optim
        first = self.variants[0]
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in first.rows.items())
        several = f"{counted(len(self.variants), 'variant')}; " if len(self.variants) > 1 else ""
        decoding = f"{counted(self.undecoded, 'video')} to decode" if self.undecoded else "decoded already"
        stop = (
            "none is stopped early"
            if study.scheduler == "none"
            else f"{_SCHEDULERS[study.scheduler]} may stop a trial from epoch {study.grace_epochs} on"
        )
        rows = [
            ("videos", f"{counts}; {counted(len(first.classes), 'class')}; {several}{decoding}"),
            *(("classes" if i == 0 else "", line) for i, line in enumerate(self._classes())),
            *(("selection" if i == 0 else "", line) for i, line in enumerate(self._selection())),
            *(("frames" if i == 0 else "", line) for i, line in enumerate(self._frames())),
            ("trials", f"{self._trials()}{self._balance()}, {study.sampler} sampler, seed {study.seed}"),
            ("objective", f"validation top-1, {describe(self._objective)}"),
            (
                "a trial",
                f"{counted(self.epochs, 'epoch')} x {counted(self.steps_per_epoch, 'step')} of "
                f"{counted(optim.batch_size, 'video')}"
                f"{self._runs}; {stop}",
            ),
            *(("searched" if i == 0 else "", f"{d.path}: {d}") for i, d in enumerate(space.search)),
            *(("warm start", str(warm_start)) for warm_start in self.warm_start),
            ("resources", self._resources()),
        ]
        return rows + (self.cost.lines(self.time_budget) if self.cost else [])

    def _classes(self) -> list[str]:
        first = self.variants[0]
        return class_lines(class_table(first.manifest, first.rows))

    def _selection(self) -> Iterator[str]:
        # Variants may differ in the shots, and so in the videos that select.
        yield from dict.fromkeys(line for variant in self.variants for line in variant.selection_lines())

    def _frames(self) -> Iterator[str]:
        yield from dict.fromkeys(view_summary(variant.view) for variant in self.variants)
        warnings = (self.space.experiment(one).enlarged_frames for one in frozen_variants(self.space))
        yield from dict.fromkeys(warning for warning in warnings if warning)

    def _resources(self) -> str:
        shared = self.share or why_not_shared(self.space, self.request)
        return f"{self.request} a trial; {self.concurrent} at once{shared and f'; {shared}'}"

    @property
    def _objective(self) -> str:
        # With `last_epoch`, the last epoch of a run counts as its best one.
        is_last = all(variant.selection == "last_epoch" for variant in self.variants)
        return LAST if is_last and self.space.study.objective == BEST else self.space.study.objective

    def _balance(self) -> str:
        """Return the number of trials of each value of a balanced choice."""
        choice = self.space.balanced
        if choice is None:
            return ""
        if math.isinf(self.trials):
            return f", the same number for each {choice.path}"
        each, rest = divmod(int(self.trials), len(choice.values))
        # The rarest value comes next, the first one of several, so the first values get the rest.
        one_more = f" and one more for {', '.join(map(str, choice.values[:rest]))}" if rest else ""
        return f", {each} for each of {counted(len(choice.values), 'value')} of {choice.path}{one_more}"

    def _trials(self) -> str:
        limit = "" if self.time_budget is None else f" in {duration(self.time_budget)}"
        if math.isinf(self.trials):
            return f"as many as fit{limit}"
        return f"{self.missing:.0f} of {self.trials:.0f} to run" + (limit and f", as many as fit{limit}")


def frozen_variants(space: SearchSpace) -> list[dict[str, Any]]:
    """Return the combinations of all searched settings that change frozen results or the set of cached ones.

    A choice belongs to these settings if two of its values have different `_frozen_key`s, or if it has one
    value, which may differ from the default. The result contains the points of `decoded_variants`. Invalid
    combinations are left out.
    """
    points: list[dict[str, Any]] = [{}]
    fixed = flatten(space.fixed)
    for axis in space.search:
        # `points` grows axis by axis: each point is a partial assignment of the settings before this axis.
        # Points for which the setting does not exist pass unchanged.
        present = [point for point in points if axis.applies({**fixed, **point})]
        if axis.kind == "choice" and (
            len(axis.values) == 1 or any(_changes_frozen(space, axis, point) for point in present)
        ):
            absent = [point for point in points if not axis.applies({**fixed, **point})]
            points = absent + [{**point, axis.path: value} for point in present for value in axis.values]
    return [point for point in points if _is_allowed(space, point)]


def _changes_frozen(space: SearchSpace, axis: Distribution, point: dict[str, Any]) -> bool:
    settings = [{**point, axis.path: value} for value in axis.values]
    keys = {_frozen_key(space.experiment(one)) for one in settings if _is_allowed(space, one)}
    return len(keys) > 1


def _frozen_key(experiment: ExperimentConfig) -> tuple[Any, ...]:
    """Return what an experiment declares about its frozen results: views, caches and cache keys."""
    # The device decides the precision alone; it is the same for all values of a setting but `precision`,
    # which zero_shot_key contains.
    device = torch.device("cpu")
    specs = [feature_specs(experiment, split, device) for split in ("train", "val")]
    keys = [(field, spec.key) for by_field in specs for field, spec in sorted(by_field.items())]
    # The zero-shot baseline has the views, the backbone, the template and the normalisation of the run.
    return zero_shot_key(experiment), experiment.method.caches, tuple(keys)


def _is_allowed(space: SearchSpace, point: dict[str, Any]) -> bool:
    try:
        space.experiment(point)
    except ConfigError:
        # A trial that draws this point fails and writes the reason to its folder.
        return False
    return True


def plan_study(
    space: SearchSpace,
    *,
    request: ResourceRequest,
    machines: Sequence[Mapping[str, float]],
    cache: Path,
    trials: float,
    missing: float,
    time_budget: float | None,
    warm_start: list[WarmStart],
    measure: bool,
    rows_of: Callable[[ExperimentConfig], VideoPlan],
    share: GpuShare | None = None,
    measure_on_gpu: Measure | None = None,
) -> StudyPlan:
    """Plan a study.

    Args:
        space: Search space.
        request: Resources of one trial.
        machines: Ray resources of each machine.
        cache: Folder of decoded videos and of the small world's videos.
        trials: Trials in total.
        missing: Trials that are not finished.
        time_budget: Time limit in seconds, or None.
        warm_start: Earlier studies whose points are run first.
        measure: Whether to measure a few training steps for the cost.
        rows_of: Function that chooses the rows of an experiment.
        share: Trials that share a GPU, if an earlier call measured it.
        measure_on_gpu: Measurement of a step on a GPU. Without it, a trial has the resources of `request`.

    Raises:
        ValueError: A trial does not fit on the machines, or the videos cannot be planned.
    """
    # First, because it finds out at once that no trial fits.
    concurrent_trials(request, machines)
    variants = {}
    for settings in space.decoded_variants():
        experiment = space.experiment(settings)
        # The key removes duplicates: two combinations may have the same data and view.
        variants[videos_key(experiment)] = rows_of(experiment)
    _check_texts(space, variants)
    planned = list(variants.values())
    if may_share(space, request):
        if share is None and measure_on_gpu is not None:
            share = gpu_share(
                space,
                request,
                machines,
                points=frozen_variants(space),
                classes=planned[0].classes,
                measure=measure_on_gpu,
            )
        request = request if share is None else share.apply(request)
    else:
        share = None
    concurrent = concurrent_trials(request, machines)
    undecoded = sum(
        sum(len(rows) for rows in variant.rows.values())
        for variant in planned
        if not is_prepared(variant, cache)
    )
    cost = _measure_cost(space, variants, request, concurrent, missing, cache) if measure else None
    return StudyPlan(
        space,
        request,
        concurrent,
        planned,
        undecoded,
        trials,
        missing,
        warm_start,
        time_budget,
        cost,
        share,
    )


def _check_texts(space: SearchSpace, variants: Mapping[str, VideoPlan]) -> None:
    """Check that the class texts of all trials fit, see `check_class_texts`."""
    by_classes: dict[tuple[str, ...], list[ExperimentConfig]] = {}
    axes = [axis for axis in space.search if axis.path.rpartition(".")[2] in TEXT_SETTINGS]
    fixed = flatten(space.fixed)
    for settings in frozen_variants(space):
        points = [settings]
        for axis in axes:
            # The longest text has the largest number of learned vectors.
            if axis.path not in settings and axis.applies({**fixed, **settings}):
                points = [{**point, axis.path: value} for point in points for value in axis.edges]
        for point in points:
            if _is_allowed(space, point) and (key := videos_key(space.experiment(point))) in variants:
                by_classes.setdefault(variants[key].classes, []).append(space.experiment(point))
    for classes, experiments in by_classes.items():
        check_class_texts(experiments, classes)


def _measure_cost(
    space: SearchSpace,
    variants: Mapping[str, VideoPlan],
    request: ResourceRequest,
    concurrent: int,
    trials: float,
    cache: Path,
) -> StudyCost:
    first = next(iter(variants.values()))
    # One measurement is used for all trials: it is an estimate, and other backbones or methods may be slower.
    measured = space.first_point()
    settings = next(variant for variant in frozen_variants(space) if variant.items() <= measured.items())
    experiment = space.experiment(settings)
    step = measure_step(experiment, first.classes, cpus=request.cpus, cache=cache)
    return StudyCost(
        step,
        request,
        experiment.optim.epochs,
        _steps_per_epoch(space, first),
        first.num_selecting,
        _frozen_views(space, variants, step.device),
        trials,
        int(max(1, min(concurrent, trials))),
        space.study.price_per_hour,
    )


def _frozen_views(space: SearchSpace, variants: Mapping[str, VideoPlan], device: str) -> dict[str, int]:
    """Return the number of views that the frozen networks process once for all trials, by field."""
    first = next(iter(variants.values()))
    seen = set()
    views: dict[str, int] = {}
    for settings in frozen_variants(space):
        experiment = space.experiment(settings)
        key = videos_key(experiment)
        videos = variants.get(key, first)
        # With folds, training videos are also scored in their fixed view, which has features of its own.
        fixed = {"val": videos.rows["train"]} if videos.folds else {}
        for split, rows in {**videos.rows, **fixed}.items():
            for field, spec in feature_specs(experiment, split, torch.device(device)).items():
                # Combinations often share features. Each is computed, and counted, once.
                if (key, split, spec.key) not in seen:
                    seen.add((key, split, spec.key))
                    bank = experiment.data.bank if split == "train" else 1
                    views[field] = views.get(field, 0) + len(rows) * (bank or 1)
    return views


def _steps_per_epoch(space: SearchSpace, videos: VideoPlan) -> int:
    train, folds = len(videos.rows["train"]), videos.folds
    # A fold trains on all videos but one part.
    runs = [train] + [train - train // folds] * folds if folds else [train]
    return sum(math.ceil(count / space.experiment().optim.batch_size) for count in runs)
