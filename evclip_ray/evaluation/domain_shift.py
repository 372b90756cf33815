"""From manifests to measured sets of videos: which videos of each, as zero-shot CLIP sees them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evclip_ray.artifacts import file_digest
from evclip_ray.class_names import split_words
from evclip_ray.config import ConfigError
from evclip_ray.domain_shift.compare import Domain, measure, set_names
from evclip_ray.models.methods.zero_shot import ZeroShot, ZeroShotConfig
from evclip_ray.training.build import autocast_dtype, build_method, pick_device, weights_of
from evclip_ray.training.datamodule import Progress, VideoPlan, Videos, plan_videos
from evclip_ray.training.experiment import ExperimentConfig

DEFAULTS: dict[str, Any] = {
    "method": {"name": "zero_shot"},
    # Frames near in time: what changes in seconds is not motion but another picture.
    "view": {"sampling": "window", "window_frames": 16, "num_frames": 8},
}


@dataclasses.dataclass(frozen=True)
class SetPlan:
    """One set of a comparison: `total` videos are in the split, those of `plan` are read."""

    name: str
    split: str
    total: int
    experiment: ExperimentConfig
    plan: VideoPlan

    @property
    def num_videos(self) -> int:
        """Videos that are read."""
        return len(self.plan.rows[self.split])


def plan_sets(
    manifests: Sequence[str],
    splits: Sequence[str],
    overrides: Sequence[Mapping[str, Any]],
    *,
    most: int,
    cache: Path,
) -> list[SetPlan]:
    """Which videos of each set are read: at most `most` of its split, drawn by the experiment's seed.

    `overrides`: settings of each set over `DEFAULTS`, its manifest among them.

    Raises:
        ValueError: fewer than two sets, an empty split, or a method other than zero-shot CLIP.
    """
    if len(manifests) < 2:
        raise ValueError(f"a shift is between two or more sets, got {len(manifests)}; name another manifest")
    plans = []
    for name, split, settings in zip(set_names(manifests, splits), splits, overrides, strict=True):
        experiment = ExperimentConfig.load(DEFAULTS, settings)
        if not isinstance(experiment.method, ZeroShotConfig):
            raise ConfigError(f"method.name must be zero_shot for a shift, got {experiment.method.name!r}")
        plan = plan_videos(experiment, cache=cache, splits=(split,))
        rows = plan.rows[split]
        random = np.random.default_rng(experiment.seed)
        chosen = np.sort(random.permutation(rows)[:most])
        plan = dataclasses.replace(plan, rows={split: chosen})
        plans.append(SetPlan(name, split, len(rows), experiment, plan))
    return plans


def measure_sets(
    plans: Sequence[SetPlan], decoded: Sequence[Videos], *, progress: Progress | None = None
) -> tuple[list[Domain], dict[str, str]]:
    """Every set measured, once it is decoded; also where the frozen weights came from.

    `progress`: called with what is done to which set, videos done, videos in all.
    """
    domains: list[Domain] = []
    weights: dict[str, str] = {}
    for chosen, videos in zip(plans, decoded, strict=True):
        experiment, device, found = chosen.experiment, pick_device(), videos.sets[chosen.split]
        method = build_method(experiment, videos.classes)
        assert isinstance(method, ZeroShot)
        domain = measure(
            chosen.name, found.shards, found.labels, [split_words(label) for label in videos.classes], method,
            device=device, batch_size=experiment.optim.eval_batch_size,
            dtype=autocast_dtype(experiment, device),
            progress=functools.partial(progress, f"measuring {chosen.name}") if progress else None,
        )  # fmt: skip
        domains.append(domain)
        weights |= weights_of(method.frozen)
    return domains, weights


def comparison_inputs(
    plans: Sequence[SetPlan], decoded: Sequence[Videos], predictions: Path | None
) -> dict[str, Any]:
    """What a ledger says of a comparison: every set, how it was read, and whose answers were explained."""
    sets = []
    for chosen, videos in zip(plans, decoded, strict=True):
        shards = videos.sets[chosen.split].shards
        sets.append(
            {"name": chosen.name, "split": chosen.split, "in_split": chosen.total, "read": chosen.num_videos,
             "decoded": len(shards), "shards": shards.key,
             "experiment": chosen.experiment.model_dump(mode="json")}
        )  # fmt: skip
    answers = {"path": str(predictions), "digest": file_digest(predictions)} if predictions else None
    return {"sets": sets, "predictions": answers}
