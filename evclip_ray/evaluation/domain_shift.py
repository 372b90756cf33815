"""Sets of videos for a comparison of domains: planned, decoded and measured with zero-shot CLIP."""

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
from evclip_ray.formatting import counted
from evclip_ray.models.methods.settings.zero_shot import ZeroShotConfig
from evclip_ray.models.methods.zero_shot import ZeroShot
from evclip_ray.progress import Progress
from evclip_ray.training.build import autocast_dtype, build_method, pick_device, weights_of
from evclip_ray.training.datamodule import Videos
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.video_plan import VideoPlan, plan_videos

DEFAULTS: dict[str, Any] = {
    "method": {"name": "zero_shot"},
    # Frames that are close in time: over seconds, a change is another scene rather than motion.
    "view": {"sampling": "window", "window_frames": 16, "num_frames": 8},
}


@dataclasses.dataclass(frozen=True)
class SetPlan:
    """One set of a comparison.

    Attributes:
        name: Name of the set.
        split: Split that is read.
        total: Videos in the split, or in the list if it has no splits.
        experiment: Settings of the set.
        plan: Videos that are read.
    """

    name: str
    split: str
    total: int
    experiment: ExperimentConfig
    plan: VideoPlan

    @property
    def extent(self) -> str:
        """One line about how many videos are read."""
        marked = f" of the {self.split!r} split" if self.plan.manifest.splits() else ""
        whole = "" if marked else " (the list has no splits)"
        return f"{self.name}: {self.num_videos} of {counted(self.total, 'video')}{marked}{whole}"

    @property
    def num_videos(self) -> int:
        """Number of videos that are read."""
        return len(self.plan.rows[self.split])


def plan_sets(
    manifests: Sequence[str],
    splits: Sequence[str],
    overrides: Sequence[Mapping[str, Any]],
    *,
    max_videos: int,
    cache: Path,
) -> list[SetPlan]:
    """Choose the videos of each set at random, with the experiment's seed.

    Args:
        manifests: Manifest of each set.
        splits: Split of each set.
        overrides: Settings of each set on top of `DEFAULTS`, including its manifest.
        max_videos: Largest number of videos of a set.
        cache: Folder of decoded videos.

    Raises:
        ValueError: There are fewer than two sets, a split is empty, or the method is not zero-shot CLIP.
    """
    if len(manifests) < 2:
        raise ValueError(f"a comparison needs at least two sets, got {len(manifests)}; name another manifest")
    plans = []
    for name, split, settings in zip(set_names(manifests, splits), splits, overrides, strict=True):
        experiment = ExperimentConfig.load(DEFAULTS, settings)
        if not isinstance(experiment.method, ZeroShotConfig):
            raise ConfigError(f"method.name must be zero_shot for a shift, got {experiment.method.name!r}")
        plan = plan_videos(experiment, cache=cache, splits=(split,), whole_if_unmarked=True)
        rows = plan.rows[split]
        random = np.random.default_rng(experiment.seed)
        # In the order of the manifest: with all rows, this is the folder of the whole split, which may exist.
        chosen = np.sort(random.permutation(rows)[:max_videos])
        plan = dataclasses.replace(plan, rows={split: chosen})
        plans.append(SetPlan(name, split, len(rows), experiment, plan))
    return plans


def measure_sets(
    plans: Sequence[SetPlan], decoded: Sequence[Videos], *, progress: Progress | None = None
) -> tuple[list[Domain], dict[str, str]]:
    """Measure every set. Returns the measurements and the origin of the frozen weights.

    Args:
        plans: Sets of the comparison.
        decoded: Decoded videos of each set.
        progress: Called with the current work, the videos done and the videos in total.
    """
    domains: list[Domain] = []
    weights: dict[str, str] = {}
    for chosen, videos in zip(plans, decoded, strict=True):
        experiment, device, decoded_set = chosen.experiment, pick_device(), videos.sets[chosen.split]
        method = build_method(experiment, videos.classes)
        assert isinstance(method, ZeroShot)
        domain = measure(
            chosen.name,
            decoded_set.shards,
            decoded_set.labels,
            [split_words(label) for label in videos.classes],
            method,
            device=device,
            batch_size=experiment.optim.eval_batch_size,
            dtype=autocast_dtype(experiment, device),
            progress=functools.partial(progress, f"measuring {chosen.name}") if progress else None,
        )
        domains.append(domain)
        weights |= weights_of(method.frozen)
    return domains, weights


def comparison_inputs(
    plans: Sequence[SetPlan], decoded: Sequence[Videos], predictions: Path | None
) -> dict[str, Any]:
    """Return the inputs of a comparison for its ledger: the sets, and the file of predictions if any."""
    sets = []
    for chosen, videos in zip(plans, decoded, strict=True):
        shards = videos.sets[chosen.split].shards
        sets.append(
            {
                "name": chosen.name,
                "split": chosen.split,
                "in_split": chosen.total,
                "read": chosen.num_videos,
                "decoded": len(shards),
                "shards": shards.key,
                "experiment": chosen.experiment.model_dump(mode="json"),
            }
        )
    answers = {"path": str(predictions), "digest": file_digest(predictions)} if predictions else None
    return {"sets": sets, "predictions": answers}
