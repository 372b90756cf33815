"""Zero-shot CLIP on the views of a run: the baseline of its scores."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from evclip_ray.artifacts import ArtifactError, digest, read_json, write_json
from evclip_ray.metrics.scoring import Scores, score, summary
from evclip_ray.progress import stage
from evclip_ray.training.build import autocast_dtype, build_method, computed_in, weights_of, zero_shot_of
from evclip_ray.training.datamodule import Videos
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import open_cached
from evclip_ray.training.loader import Batches

log = logging.getLogger(__name__)


def videos_key(experiment: ExperimentConfig) -> str:
    """Return the digest of the settings that decide which pixels an experiment reads."""
    return digest({name: getattr(experiment, name).model_dump(mode="json") for name in ("data", "view")})


def zero_shot_key(experiment: ExperimentConfig) -> str:
    """Return the digest of the settings that decide the zero-shot baseline."""
    return digest(
        {
            "videos": videos_key(experiment),
            "backbone": experiment.backbone.model_dump(mode="json"),
            "method": zero_shot_of(experiment).method.model_dump(mode="json"),
            "precision": experiment.precision,
        }
    )


def score_zero_shot(
    experiment: ExperimentConfig, videos: Videos, *, split: str, device: torch.device
) -> tuple[Scores, dict[str, str]]:
    """Return the scores of zero-shot CLIP on a split, and the origin of its weights.

    Args:
        experiment: Settings of the run; its method is replaced by zero-shot CLIP.
        videos: Decoded videos of the run.
        split: Split to score.
        device: Device of the networks.
    """
    baseline = zero_shot_of(experiment)
    cached = open_cached(baseline, videos, device=device, splits=(split,))
    method = build_method(baseline, videos.classes, device=device, frozen=cached.networks)
    scored_videos = videos.sets[split]
    batches = Batches(
        scored_videos,
        size=method.frozen.clip.image_size,
        device=device,
        features=cached.sets.get(split),
        pixels=cached.needs_pixels,
    )
    scores = score(
        method,
        scored_videos.shards,
        scored_videos.labels,
        device=device,
        batches=batches,
        batch_size=experiment.optim.eval_batch_size,
        dtype=autocast_dtype(experiment, device),
    )
    return scores, weights_of(method.frozen)


def zero_shot_numbers(
    path: Path, experiment: ExperimentConfig, videos: Videos, *, device: torch.device
) -> dict[str, Any]:
    """Return the zero-shot scores of the validation split, computed once and stored in `path`.

    Args:
        path: JSON file of the scores. It is read if it was computed on these videos, in this precision and on
            this type of device.
        experiment: Settings of the run; its method is replaced by zero-shot CLIP.
        videos: Decoded videos of the run.
        device: Device of the networks.
    """
    # The digest of the contents, so that numbers of other videos under the same list are not taken over. The
    # shards cannot replace it: their digest is of paths and labels.
    rows = videos.row_keys.get("val")
    conditions = computed_in(experiment, device)
    stored = _stored(path)
    if (
        stored is not None
        and (rows is None or stored.get("rows") == rows)
        and _are_alike(stored.get("conditions"), conditions)
    ):
        return stored
    # Trials of a study share the file. Two trials may compute it at the same time; both write the same
    # numbers.
    with stage("zero-shot baseline"):
        scores, weights = score_zero_shot(experiment, videos, split="val", device=device)
    numbers = summary(scores, videos.sets["val"].groups)
    write_json(path, {**numbers, "weights": weights, "conditions": conditions, "rows": rows})
    return dict(read_json(path))


def _stored(path: Path) -> dict[str, Any] | None:
    """Return the stored scores; None if there are none or the file is damaged."""
    if not path.is_file():
        return None
    try:
        stored = read_json(path)
    except ArtifactError as problem:
        log.warning("%s; it is computed again", problem)
        return None
    return stored if isinstance(stored, dict) else None


def _are_alike(stored: Mapping[str, str] | None, conditions: Mapping[str, str]) -> bool:
    # Versions without conditions recorded none. Trials on GPUs of two models share the number, as they share
    # cached features: otherwise each would replace that of the other.
    if stored is None:
        return True
    kinds = [(of["precision"], of["device"].split(" ")[0]) for of in (stored, conditions)]
    return kinds[0] == kinds[1]
