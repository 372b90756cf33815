"""Cached features of a run: planned and computed once for many runs, opened by each.

With cached augmented views (`data.bank`) a training video has a fixed number of views, as a validation
video always has. The outputs of the frozen networks for these views are then constants. A run reads those
that its method declares in `caches`. A method that needs nothing else does not load the networks.
"""

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from evclip_ray.class_names import split_words
from evclip_ray.features import spec as specs
from evclip_ray.features.cached_networks import CachedCLIP, CachedVideoEncoder, CLIPWithCachedTexts
from evclip_ray.features.dataset import FeatureSet
from evclip_ray.features.encode import Job, TextJob, run_job
from evclip_ray.features.extract import prepare_features, view_jobs
from evclip_ray.features.format import feature_file
from evclip_ray.features.spec import FeatureSpec, text_key
from evclip_ray.models.batch import Frozen
from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.layers.class_text import class_texts
from evclip_ray.progress import Progress
from evclip_ray.training.build import (
    autocast_dtype,
    load_backbone,
    load_encoder,
    network_dtype,
    zero_shot_of,
)
from evclip_ray.training.datamodule import Videos
from evclip_ray.training.experiment import ExperimentConfig

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Cached:
    """Cached features of a run, and the networks that it still needs.

    Attributes:
        sets: Split -> field of `VideoBatch` -> features.
        networks: Frozen networks, or stand-ins that read cached results; None loads all of them.
        needs_pixels: Whether the method still computes something from pixels.
    """

    sets: dict[str, dict[str, FeatureSet]] = dataclasses.field(default_factory=dict)
    networks: Frozen | None = None
    needs_pixels: bool = True


def prepare_cached(
    experiments: Iterable[tuple[ExperimentConfig, Videos]],
    *,
    gpus: float,
    progress: Progress | None = None,
) -> None:
    """Compute the features that the runs of `experiments` and their zero-shot baselines will read.

    Args:
        experiments: Experiments with their decoded videos.
        gpus: GPUs of one trial; 0 means that trials run on the CPU.
        progress: Called with the text "encoding features", the number of finished jobs and of all jobs.
    """
    # Only the type matters here: it is part of the cache key, and it decides the precision of
    # `precision: auto`.
    device = torch.device("cuda" if gpus else "cpu")
    jobs: list[Job] = []
    for experiment, videos in experiments:
        baseline = zero_shot_of(experiment)
        jobs += _jobs(experiment, videos, videos.sets, device)
        # The baseline is scored on validation videos only, and it is not trained.
        scored = [split for split in videos.sets if split != "train"]
        jobs += _jobs(baseline, videos, scored, device)
    prepare_features(
        jobs,
        gpus_per_actor=min(gpus, 1.0),
        progress=None if progress is None else lambda done, total: progress("encoding features", done, total),
    )


def open_cached(
    experiment: ExperimentConfig, videos: Videos, *, device: torch.device, splits: Iterable[str] | None = None
) -> Cached:
    """Open the cached features of an experiment. Returns an empty `Cached` if none were prepared.

    Without cached views only class texts are cached; the first run that needs them encodes them.

    Args:
        experiment: Settings of the run.
        videos: Its decoded videos.
        device: Device of the run.
        splits: Splits to open; by default all of them.
    """
    if videos.features is None:
        return Cached()
    store = videos.features
    if experiment.data.bank is None and not _keep_texts(experiment, videos, device):
        return Cached()
    sets: dict[str, dict[str, FeatureSet]] = {
        split: {
            field: FeatureSet(store, spec, videos.sets[split].shards, _num_views(experiment, split))
            for field, spec in feature_specs(experiment, split, device).items()
        }
        for split in (videos.sets if splits is None else splits)
    }
    files = [path for kinds in sets.values() for found in kinds.values() for path in found.files()]
    texts = _texts(experiment, videos.classes)
    if texts is not None:
        spec = _text_spec(experiment, device)
        files.append(feature_file(store, spec.key, text_key(spec, texts)))
    # Their checksums were verified when the study started; here it is enough that they exist.
    if not all(path.is_file() for path in files):
        return Cached()
    networks = _networks(experiment, videos, next(iter(sets.values())), store, device)
    return Cached(sets, networks, needs_pixels=needs_pixels(experiment))


def feature_specs(experiment: ExperimentConfig, split: str, device: torch.device) -> dict[str, FeatureSpec]:
    """Return the specs of the features that a run reads, by field of `VideoBatch`.

    Args:
        experiment: Settings of the run.
        split: Split of the videos. Only training views are augmented.
        device: Device of the run, which decides the precision if it is "auto".
    """
    data, method, backbone = experiment.data, experiment.method, experiment.backbone
    fields = _fields(experiment)
    # Features in bfloat16 and float32 differ, so the precision is part of the key.
    precision: specs.Precision = "bfloat16" if autocast_dtype(experiment, device) else "float32"
    augment = data.augment if split == "train" else None
    by_field = {}
    if "frame_features" in fields:
        by_field["frame_features"] = specs.frame_features(
            backbone.name,
            backbone.pretrained,
            activation=backbone.activation,
            precision=precision,
            normalization=getattr(method, "normalization", "own"),
            augment=augment,
        )
    if "video_map" in fields:
        encoder = method.video_encoder  # type: ignore[attr-defined]
        by_field["video_map"] = specs.video_map(
            encoder.name,
            encoder.weights,
            backbone=backbone.name,
            precision=precision,
            augment=augment,
            mean="video_mean" in method.caches,
        )
    return {field: _on(device, spec) for field, spec in by_field.items()}


def _fields(experiment: ExperimentConfig) -> frozenset[str]:
    """Return the fields of `VideoBatch` that are read from disk."""
    if experiment.data.bank is None:
        return frozenset()
    declared = experiment.method.caches & {"frame_features", "video_map"}
    requested = experiment.data.features
    # A user may store less than the method declares: the map of one view takes hundreds of kilobytes.
    return declared if requested is None else declared & set(requested)


def needs_pixels(experiment: ExperimentConfig) -> bool:
    """Return whether a run still computes something from pixels after its features are cached."""
    needed = {"frame_features", "video_map"} if experiment.method.needs_video_encoder else {"frame_features"}
    return not needed <= _fields(experiment)


def _num_views(experiment: ExperimentConfig, split: str) -> int:
    return (experiment.data.bank or 1) if split == "train" else 1


def _texts(experiment: ExperimentConfig, classes: Sequence[str]) -> tuple[str, ...] | None:
    """Return the class texts that are constants of the method, or None if it trains them."""
    template = getattr(experiment.method, "template", None)
    if template is None or "class_text" not in experiment.method.caches:
        return None
    return tuple(class_texts([split_words(label) for label in classes], template))


def _jobs(
    experiment: ExperimentConfig, videos: Videos, splits: Iterable[str], device: torch.device
) -> list[Job]:
    store = videos.features
    if store is None or experiment.data.bank is None:
        return []
    jobs: list[Job] = [
        job
        for split in splits
        for spec in feature_specs(experiment, split, device).values()
        for job in view_jobs(store, spec, videos.sets[split].shards, _num_views(experiment, split))
    ]
    texts = _texts(experiment, videos.classes)
    if texts is not None:
        jobs.append(TextJob(store, _text_spec(experiment, device), texts))
    return jobs


def _keep_texts(experiment: ExperimentConfig, videos: Videos, device: torch.device) -> bool:
    """Encode the class texts of a run without cached views. Returns whether they are on disk."""
    texts = _texts(experiment, videos.classes)
    if videos.features is None or texts is None:
        return False
    # The run needs this network in any case, and the process keeps it.
    load_backbone(experiment.backbone, device, network_dtype(experiment, device))
    try:
        run_job(TextJob(videos.features, _text_spec(experiment, device), texts), device)
    except OSError as problem:
        log.warning("class texts cannot be cached (%s); each run encodes them again", problem)
        return False
    return True


def _text_spec(experiment: ExperimentConfig, device: torch.device) -> FeatureSpec:
    backbone = experiment.backbone
    spec = specs.class_text(backbone.name, backbone.pretrained, activation=backbone.activation)
    return _on(device, spec)


def _on(device: torch.device, spec: FeatureSpec) -> FeatureSpec:
    return dataclasses.replace(spec, device="cuda" if device.type == "cuda" else "cpu")


def _networks(
    experiment: ExperimentConfig,
    videos: Videos,
    sets: dict[str, FeatureSet],
    store: Path,
    device: torch.device,
) -> Frozen:
    """Return the frozen networks of a run. A network whose results are all cached is not loaded."""
    method, texts = experiment.method, _texts(experiment, videos.classes)
    cached_texts = None if texts is None else _text_spec(experiment, device)
    dtype = network_dtype(experiment, device)
    clip: FrozenCLIP
    if "frame_features" in sets and "class_text" in method.caches:
        clip = CachedCLIP(store, sets["frame_features"].spec, cached_texts)
    else:
        clip = load_backbone(experiment.backbone, device, dtype)
        if cached_texts is not None:
            clip = CLIPWithCachedTexts(clip, store, cached_texts)
    if "video_map" in sets:
        return Frozen(clip, CachedVideoEncoder(store, sets["video_map"].spec))
    return Frozen(clip, load_encoder(method, device, dtype))
