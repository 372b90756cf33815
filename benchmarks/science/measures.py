"""Measurements beside accuracy: masks against the true ones, agreement of frames, and factors of a shift."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.shards.true_masks import TrueMasks
from evclip_ray.data.transforms import crop_batch, to_device
from evclip_ray.domain_shift.compare import measure
from evclip_ray.domain_shift.visual_factors import VISUAL_FACTORS
from evclip_ray.evaluation.domain_shift import DEFAULTS
from evclip_ray.evaluation.evaluate import load_trained
from evclip_ray.evaluation.plan import EvaluationPlan
from evclip_ray.metrics.mask_quality import MaskScorer, VideoMaskQuality, figure_of, video_mask_quality
from evclip_ray.metrics.multi_view import EvaluationViews, ScoredView, score_views
from evclip_ray.metrics.scoring import autocast
from evclip_ray.models.batch import MethodOutput, VideoBatch
from evclip_ray.models.methods.base import Method
from evclip_ray.models.methods.zero_shot import ZeroShot
from evclip_ray.training.build import autocast_dtype, build_method, pick_device, zero_shot_of
from evclip_ray.training.datamodule import Videos, VideoSet
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.video_plan import plan_videos

from .execute import Place, Record, answers, config_of, decode
from .experiments import Experiment

_BATCH = 16


def mask_measures(plan: EvaluationPlan, videos: Videos) -> Record:
    """Return the agreement of frames and, if the method has a mask, its scores against the true masks."""
    if plan.experiment.method.name != "ev_clip":
        return {}
    method = load_trained(plan.checkpoint, plan.experiment, plan.trained)
    chosen = plan.plans[plan.split]
    return _measured(method, plan.experiment, videos.sets[plan.split], chosen.manifest)


def untrained(experiment: Experiment, place: Place) -> Record:
    """Return the scores of the masks of an untrained method."""
    config = config_of(experiment)
    plan = plan_videos(config, cache=place.cache, splits=("test",))
    videos = decode(plan, place.cache)
    return _measured(build_method(config, videos.classes), config, videos.sets["test"], plan.manifest)


def true_mask(experiment: Experiment, place: Place) -> Record:
    """Return the zero-shot accuracy on frames that are multiplied by the true mask of the acting figure."""
    config = zero_shot_of(config_of(experiment))
    plan = plan_videos(config, cache=place.cache, splits=("train", "test"))
    decoded = decode(plan, place.cache)
    videos, method = decoded.sets["test"], build_method(config, decoded.classes)
    prior = _mean_mask(decoded.sets["train"], plan.manifest, method.frozen.clip.image_size)
    quality = []
    masks = TrueMasks(videos.shards, plan.manifest)
    right: dict[str, list[bool]] = {"zero_shot": [], "true_mask": []}
    shares = []
    for positions in _groups(len(videos)):
        pixels = _views(videos, positions, method)
        figures = [figure_of(masks.read(position), pixels.shape[-1]) for position in positions.tolist()]
        figure = torch.from_numpy(np.stack(figures)).to(pixels.device)[:, :, None]
        shares += [float(each.mean()) for each in figures]
        quality += [video_mask_quality(prior, each) for each in figures]
        # The mask prompt multiplies normalised pixels, so what it hides has CLIP's mean colour.
        mean = torch.tensor(method.frozen.clip.mean, device=pixels.device).view(1, 1, 3, 1, 1)
        for name, shown in (("zero_shot", pixels), ("true_mask", torch.where(figure, pixels, mean))):
            logits = _forward(method, config, shown).logits
            right[name] += (logits.argmax(-1).cpu().numpy() == videos.labels[positions]).tolist()
    bits = {name: np.array(flags) for name, flags in right.items()}
    columns = dict(zip(VideoMaskQuality._fields, np.transpose(quality), strict=True))
    return {
        "test": answers(videos, **bits),
        "share": float(np.mean(shares)),
        "masks": {name: np.round(values, 5).tolist() for name, values in columns.items()},
        "mask_groups": _group_numbers(videos),
    }


def _mean_mask(videos: VideoSet, manifest: Manifest, size: int) -> NDArray[np.float32]:
    """Return the mean true mask of the training videos, (S, S): where figures usually are."""
    masks = TrueMasks(videos.shards, manifest)
    means = [figure_of(masks.read(position), size).mean(0) for position in range(len(videos))]
    return np.mean(means, axis=0, dtype=np.float32)


def factors(experiment: Experiment, place: Place) -> Record:
    """Return the visual factors of the test videos, as `evclip-ray shift` measures them."""
    settings = {path: value for path, value in experiment.overrides.items() if path.startswith("data.world")}
    config = ExperimentConfig.load(
        DEFAULTS, {**settings, **{path: experiment.overrides[path] for path in _NETWORK}}
    )
    videos = decode(plan_videos(config, cache=place.cache, splits=("test",)), place.cache)
    method = build_method(config, videos.classes)
    assert isinstance(method, ZeroShot)
    tests = videos.sets["test"]
    domain = measure(
        experiment.world.name,
        tests.shards,
        tests.labels,
        videos.classes,
        method,
        device=pick_device(),
        batch_size=_BATCH,
        dtype=autocast_dtype(config, pick_device()),
    )
    values = {name: np.round(domain.visual[name], 5).tolist() for name in VISUAL_FACTORS}
    return {"factors": values, "groups": _group_numbers(tests)}


_NETWORK = ("backbone.name", "backbone.pretrained")


def _group_numbers(videos: VideoSet) -> list[int]:
    return list(range(len(videos))) if videos.groups is None else videos.groups.tolist()


def _measured(method: Method, config: ExperimentConfig, videos: VideoSet, manifest: Manifest) -> Record:
    device, scorer = pick_device(), MaskScorer(videos.shards, manifest)
    agreement: list[float] = []

    def watch(view: ScoredView, positions: NDArray[np.int64], output: MethodOutput) -> None:
        assert output.frame_features is not None
        agreement.extend(frame_agreement(output.frame_features).tolist())
        scorer(view, positions, output)

    score_views(
        method,
        videos.shards,
        videos.labels,
        views=EvaluationViews(),
        device=device,
        batch_size=_BATCH,
        dtype=autocast_dtype(config, device),
        watch=watch,
    )
    record: Record = {"agreement": float(np.mean(agreement))}
    quality = scorer.result()
    if quality is None:
        return record
    if not quality.is_scored.all():
        raise ValueError(f"{len(quality.skipped)} videos have no usable true mask: {quality.skipped[:2]}")
    columns = dict(zip(VideoMaskQuality._fields, quality.by_video.T, strict=True))
    masks = {name: np.round(values, 5).tolist() for name, values in columns.items()}
    return record | {"masks": masks, "mask_groups": _group_numbers(videos)}


def frame_agreement(frames: torch.Tensor) -> torch.Tensor:
    """Return the mean cosine of two different frames of each video: (B, T, D) -> (B,)."""
    frames = F.normalize(frames.float(), dim=-1)
    count = frames.shape[1]
    total = (frames @ frames.transpose(1, 2)).sum((1, 2))
    return ((total - count) / (count * (count - 1))).cpu()


def _groups(count: int) -> Iterator[NDArray[np.int64]]:
    return (np.arange(start, min(start + _BATCH, count)) for start in range(0, count, _BATCH))


def _views(videos: VideoSet, positions: NDArray[np.int64], method: Method) -> torch.Tensor:
    frames = to_device(videos.shards.frames(positions), pick_device())
    return crop_batch(frames, size=method.frozen.clip.image_size)


@torch.no_grad()
def _forward(method: Method, config: ExperimentConfig, pixels: torch.Tensor) -> MethodOutput:
    with autocast(pixels.device, autocast_dtype(config, pixels.device)):
        output: MethodOutput = method.eval()(VideoBatch(pixels))
    return output
