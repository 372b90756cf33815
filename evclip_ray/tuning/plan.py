"""What a study will do, said before it starts: videos, trials, resources, and the cost at most."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evclip_ray.config import ConfigError
from evclip_ray.training.estimate import StepCost, measure_step
from evclip_ray.training.placement import Need, concurrent_trials
from evclip_ray.training.videos import VideoPlan, is_prepared, plan_videos
from evclip_ray.tuning.search_space import SearchSpace, flatten

_FROZEN = (
    "data.", "view.", "backbone.", "precision",
    "method.name", "method.prompts", "method.mode", "method.template", "method.normalization",
    "method.video_encoder.",
)  # fmt: skip
"""Paths that change what the frozen networks read or give, or which of it a method reads."""


@dataclasses.dataclass(frozen=True)
class StudyPlan:
    """The facts of a study before it starts. `step` is None where no step was measured."""

    space: SearchSpace
    need: Need
    concurrent: int
    variants: list[VideoPlan]
    undecoded: int
    missing: int
    step: StepCost | None

    @property
    def epochs(self) -> int:
        """Epochs of a trial that is not stopped."""
        return self.space.experiment().optim.epochs

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch, on the first variant of the videos."""
        train = len(self.variants[0].rows["train"])
        return math.ceil(train / self.space.experiment().optim.batch_size)

    def lines(self) -> list[tuple[str, str]]:
        """(heading, text) rows for a person to read."""
        space, study, optim = self.space, self.space.study, self.space.experiment().optim
        first = self.variants[0]
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in first.rows.items())
        decoding = f"{self.undecoded} videos to decode" if self.undecoded else "decoded already"
        stop = (
            f"ASHA may stop a trial from epoch {study.grace_epochs} on"
            if study.scheduler == "asha"
            else "none is stopped early"
        )
        rows = [
            ("videos", f"{counts}; {len(first.classes)} classes; {len(self.variants)} variants; {decoding}"),
            (
                "trials",
                f"{self.missing} of {study.trials} to run, {study.sampler} sampler, seed {study.seed}",
            ),
            (
                "a trial",
                f"{self.epochs} epochs x {self.steps_per_epoch} steps of {optim.batch_size} videos; {stop}",
            ),
            *(("searched" if i == 0 else "", f"{d.path}: {d}") for i, d in enumerate(space.search)),
            ("resources", f"{self.need} a trial; {self.concurrent} at once"),
        ]
        return rows + (self._cost() if self.step else [])

    def _cost(self) -> list[tuple[str, str]]:
        assert self.step is not None
        steps = self.missing * self.epochs * self.steps_per_epoch
        seconds = steps * self.step.seconds / max(1, min(self.concurrent, self.missing))
        weights = ", ".join(f"{part} {origin}" for part, origin in self.step.weights.items())
        return [
            ("trained", f"{self.step.num_trainable:,} parameters; frozen weights: {weights}"),
            (
                "a step",
                f"{self.step.seconds:.3g} s on this machine's {self.step.device}, "
                f"{self.step.flop / 1e9:.3g} GFLOP",
            ),
            (
                "at most",
                f"{steps:,} steps, {steps * self.step.flop / 1e15:.3g} PFLOP, about {_duration(seconds)} "
                "of training if no trial is stopped early",
            ),
        ]


def frozen_variants(space: SearchSpace) -> list[dict[str, Any]]:
    """Every combination of the searched settings that change what the frozen networks give.

    Those of `decoded_variants` are among them. A combination that no experiment allows is left out.
    """
    points: list[dict[str, Any]] = [{}]
    fixed = flatten(space.fixed)
    for axis in space.search:
        if axis.kind == "choice" and axis.path.startswith(_FROZEN):
            absent = [point for point in points if not axis.applies({**fixed, **point})]
            present = [{**point, axis.path: value} for point in points for value in axis.values
                       if axis.applies({**fixed, **point})]  # fmt: skip
            points = absent + present
    return [point for point in points if _is_allowed(space, point)]


def _is_allowed(space: SearchSpace, point: dict[str, Any]) -> bool:
    try:
        space.experiment(point)
    except ConfigError:
        # The trial that draws it fails, and says why.
        return False
    return True


def plan_study(
    space: SearchSpace,
    *,
    need: Need,
    machines: Sequence[Mapping[str, float]],
    cache: Path,
    missing: int,
    measure: bool,
) -> StudyPlan:
    """Work out a study's plan; `measure` also takes a few training steps here.

    Raises:
        ValueError: a trial that can never be placed, or videos that cannot be planned.
    """
    concurrent = concurrent_trials(need, machines)
    experiments = [space.experiment(variant) for variant in space.decoded_variants()]
    variants = [plan_videos(experiment, cache=cache) for experiment in experiments]
    undecoded = sum(
        sum(len(rows) for rows in variant.rows.values())
        for variant in variants
        if not is_prepared(variant, cache)
    )
    step = measure_step(experiments[0], variants[0].classes) if measure else None
    return StudyPlan(space, need, concurrent, variants, undecoded, missing, step)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
