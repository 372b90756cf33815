"""Predictions of the best trial on its validation videos, and its masks, stored as files.

A report is drawn from these files alone, so that it can be drawn again without the checkpoint, the weights
and the videos. The folder of an evaluation gets a folder `masks/` with two files:
- `masks.npz`: `frames` (V, T, h, w, 3) uint8 and `masks` (V, h, w) float16. Where the manifest names true
  masks, also `true_masks` (V, T, h, w) uint8, 0 for videos without one.
- `masks.json`: the predictions of both models, or the reason why the masks are missing. `mask_quality` of a
  video has the fields of `VideoMaskQuality` for the stored view, or the reason why they are missing.
"""

import csv
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from evclip_ray.artifacts import (
    LEDGER,
    ArtifactError,
    file_digest,
    read_json,
    read_ledger,
    replacing,
    write_json,
)
from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.masks import MaskError
from evclip_ray.data.shards.true_masks import TrueMasks
from evclip_ray.data.transforms import crop_batch, to_device
from evclip_ray.evaluation.evaluate import evaluate_checkpoint, load_trained
from evclip_ray.evaluation.listed_masks import cache_of, list_of, true_masks_key, with_unchanged_masks
from evclip_ray.evaluation.plan import EvaluationPlan, plan_evaluation
from evclip_ray.formatting import shell
from evclip_ray.metrics.mask_quality import figure_of, video_mask_quality
from evclip_ray.metrics.multi_view import EvaluationViews
from evclip_ray.metrics.scoring import autocast
from evclip_ray.models.batch import VideoBatch
from evclip_ray.models.methods.base import Method
from evclip_ray.models.video_encoder import IMAGENET_MEAN
from evclip_ray.training.build import autocast_dtype, build_method, pick_device, zero_shot_of
from evclip_ray.training.checkpoint import ADAPTER, ROWS, read_record
from evclip_ray.training.datamodule import Videos, is_prepared, prepare
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.tensorboard.mask_stats import mask_coverage, mask_entropy
from evclip_ray.training.video_plan import VideoPlan
from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning.study_folder import StudyFolder

FOLDER, RECORD, ARRAYS = "masks", "masks.json", "masks.npz"
SIDE = 128
"""Largest side of a stored frame or mask in pixels: enough for a picture, and small on disk."""

_CANDIDATES = 64
"""Number of videos among which the most changed ones are chosen."""

_BATCH = 8


def save_best_masks(study: Path, out: Path, *, max_videos: int, seed: int) -> Path:
    """Evaluate the best checkpoint of a study on its validation videos, with masks. Returns `out`.

    An existing evaluation of the same checkpoint, number of videos and seed is kept.

    Args:
        study: Folder of the study.
        out: Folder of the evaluation.
        max_videos: Number of videos with a mask.
        seed: Seed of the random choice of videos.

    Raises:
        ArtifactError: There is no best checkpoint, its videos or weights no longer exist, or it has no
            validation videos, because a cross-validation scored it.
    """
    folder, checkpoint = StudyFolder(study), study / "best"
    record = read_record(checkpoint)
    experiment = ExperimentConfig.load(record["experiment"])
    identity = {"checkpoint": file_digest(checkpoint / ADAPTER), "videos": max_videos, "seed": seed}
    videos_file = _videos_file(folder, experiment)
    cache = cache_of(videos_file)
    manifest = list_of(experiment.data, cache) if cache else None
    manifest = with_unchanged_masks(manifest, checkpoint / ROWS) if manifest else None
    identity |= true_masks_key(manifest)
    if has_masks(out, identity):
        return out
    videos = Videos.load(videos_file)
    if videos.folds:
        raise ArtifactError(
            "it trained on all videos that scored it, each in the fold that held it out. Add the test split "
            f"with `{shell('evclip-ray', 'evaluate', checkpoint, '--split', 'test')}`"
        )
    plan = EvaluationPlan(
        checkpoint, experiment, tuple(record["classes"]), "closed_set", "val", EvaluationViews(), {}
    )
    if manifest is not None:
        # The videos are decoded already; only their true masks are read by the list.
        rows = {"val": videos.sets["val"].shards.rows}
        listed = VideoPlan(manifest, rows, videos.classes, videos.sets["val"].shards.view, {"val": 1})
        plan = dataclasses.replace(plan, plans={"val": listed})
    evaluate_checkpoint(plan, {"val": videos}, out=out)
    save_masks(plan, videos, out, identity, manifest)
    return out


def _videos_file(folder: StudyFolder, experiment: ExperimentConfig) -> Path:
    """Return the record of the decoded videos: the only one, or the one with the experiment's key."""
    # Older versions computed the key differently, so the only record is used whatever its name.
    written = sorted((folder.root / "videos").glob("*.json"))
    return written[0] if len(written) == 1 else folder.videos(videos_key(experiment))


def add_masks(evaluation: Path, *, cache: Path, max_videos: int, seed: int) -> None:
    """Add masks to an existing evaluation of the test split or another split.

    Args:
        evaluation: Folder of the evaluation.
        cache: Folder of decoded videos.
        max_videos: Number of videos with a mask.
        seed: Seed of the random choice of videos.

    Raises:
        ArtifactError: Its checkpoint, videos or weights no longer exist.
    """
    inputs = read_ledger(evaluation, "evaluation")["inputs"]
    checkpoint = _checkpoint_of(evaluation, Path(inputs["checkpoint"]))
    read_record(checkpoint)
    identity = {"checkpoint": file_digest(checkpoint / ADAPTER), "videos": max_videos, "seed": seed}
    data = ExperimentConfig.load(inputs["experiment"]).data
    # The masks of a data set that is made on demand never change, so it is not made here.
    identity |= true_masks_key(list_of(data, cache) if data.manifest else None)
    if has_masks(evaluation, identity):
        return
    plan = plan_evaluation(
        checkpoint,
        inputs["experiment"],
        split=inputs["split"],
        cache=cache,
        protocol=inputs["protocol"],
        views=EvaluationViews.load(inputs["views"]),
    )
    video_plan = plan.plans[inputs.get("side", inputs["split"])]
    if is_prepared(video_plan, cache):
        videos = prepare(video_plan, cache=cache)
        save_masks(plan, videos, evaluation, identity, video_plan.manifest)


def _checkpoint_of(evaluation: Path, written: Path) -> Path:
    """Return the evaluated checkpoint. If the folders were moved together, it is next to the evaluation."""
    candidates = [folder / written.name for folder in evaluation.resolve().parents[:2]]
    return next((path for path in (written, *candidates) if (path / ADAPTER).is_file()), written)


def has_masks(evaluation: Path, identity: Mapping[str, Any]) -> bool:
    """Return whether an evaluation has masks of this checkpoint, number of videos and seed."""
    path = evaluation / FOLDER / RECORD
    if not (evaluation / LEDGER).is_file() or not path.is_file():
        return False
    made = read_json(path).get("made", {})
    # If the list can no longer be read, or names no true masks any more, the saved ones are kept.
    if "true_masks" not in identity:
        made = {name: value for name, value in made.items() if name != "true_masks"}
    return bool(made == dict(identity))


def save_masks(
    plan: EvaluationPlan,
    videos: Videos,
    evaluation: Path,
    identity: Mapping[str, Any],
    manifest: Manifest | None = None,
) -> None:
    """Write `evaluation/masks/` for some videos: the most changed ones and a random sample.

    Args:
        plan: Plan of the evaluation.
        videos: Decoded videos.
        evaluation: Folder of the evaluation.
        identity: Digest of the checkpoint, number of videos and seed; recorded to recognise the masks later.
        manifest: List of the videos, which may name true masks; None if it is not known.
    """
    path = evaluation / FOLDER / RECORD
    if not identity["videos"]:
        write_json(path, {"made": dict(identity), "reason": "no videos were requested"})
        return
    trained, device = plan.trained, pick_device()
    among = trained if set(videos.classes) <= set(trained) else videos.classes
    adapted = load_trained(plan.checkpoint, plan.experiment, among)
    baseline = build_method(zero_shot_of(plan.experiment), videos.classes)
    positions = _candidates(evaluation, len(videos.sets[plan.split]), identity["seed"])
    columns = [list(among).index(name) for name in videos.classes]
    true_masks = None if manifest is None else TrueMasks(videos.sets[plan.split].shards, manifest)
    pool = [
        prediction
        for group in np.array_split(positions, math.ceil(len(positions) / _BATCH))
        for prediction in _predict(
            plan, videos, group, adapted, baseline, true_masks, columns=columns, device=device
        )
    ]
    if not pool or pool[0]["mask"] is None:
        name = plan.experiment.method.name
        write_json(path, {"made": dict(identity), "reason": f"{name}, as the best trial has it, has no mask"})
        return
    chosen = _choose(pool, max_videos=identity["videos"])
    # Arrays go into the npz; the remaining facts of each video go into the JSON.
    frames = np.stack([video.pop("frames") for video in chosen])
    masks = np.stack([video.pop("mask") for video in chosen])
    arrays: dict[str, Any] = {"frames": frames, "masks": masks.astype(np.float16)}
    true = [video.pop("true_mask", None) for video in chosen]
    if any(mask is not None for mask in true):
        empty = np.zeros(frames.shape[1:4], np.uint8)
        arrays["true_masks"] = np.stack([empty if mask is None else mask for mask in true])
    with replacing(evaluation / FOLDER / ARRAYS) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    # The picture fades to the colour that the method's 0 stands for, which depends on the normalisation.
    uses_clip_colours = getattr(plan.experiment.method, "normalization", "own") == "own"
    # `made` identifies checkpoint, number and seed: a repeated call with the same values reuses the files.
    record = {"made": dict(identity), "split": plan.split, "seed": identity["seed"], "videos": chosen}
    write_json(path, record | {"mean": adapted.frozen.clip.mean if uses_clip_colours else IMAGENET_MEAN})


def _candidates(evaluation: Path, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return a random sample of videos, those with a changed prediction first."""
    with (evaluation / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == count
    shuffled = np.random.default_rng(seed).permutation(count)
    changed = [index for index in shuffled if rows[index]["adapted"] != rows[index]["zero_shot"]]
    others = [index for index in shuffled if rows[index]["adapted"] == rows[index]["zero_shot"]]
    # At least a quarter comes from the unchanged videos, so that the report shows them too.
    return np.array((changed[: _CANDIDATES * 3 // 4] + others)[:_CANDIDATES], np.int64)


@torch.no_grad()
def _predict(
    plan: EvaluationPlan,
    videos: Videos,
    positions: npt.NDArray[np.int64],
    adapted: Method,
    baseline: Method,
    true_masks: TrueMasks | None,
    *,
    columns: list[int],
    device: torch.device,
) -> list[dict[str, Any]]:
    """Return the predictions of both models for some videos, and the masks if the method has any."""
    decoded = videos.sets[plan.split]
    frames = to_device(decoded.shards.frames(positions), device)
    views = crop_batch(frames, size=adapted.frozen.clip.image_size)
    with autocast(device, autocast_dtype(plan.experiment, device)):
        output = adapted.eval()(VideoBatch(views))
        before = baseline.eval()(VideoBatch(views)).logits.float().softmax(-1).cpu()
    after = output.logits.float()[:, columns].softmax(-1).cpu()
    masks = [None] * len(positions) if output.mask is None else list(output.mask.float().cpu())
    return [
        {
            "path": decoded.shards.paths[position],
            "label": videos.classes[true],
            "true": int(true),
            "zero_shot": _top_prediction(before[row], videos.classes, true),
            "adapted": _top_prediction(after[row], videos.classes, true),
            "frames": _small(views[row].cpu()),
            **_mask_facts(masks[row]),
            **_truth(masks[row], true_masks, int(position)),
        }
        for row, (position, true) in enumerate(zip(positions, decoded.labels[positions], strict=True))
    ]


def _top_prediction(probabilities: Tensor, classes: tuple[str, ...], true: int) -> dict[str, Any]:
    best = int(probabilities.argmax())
    return {"label": classes[best], "p": float(probabilities[best]), "p_true": float(probabilities[true])}


def _mask_facts(mask: Tensor | None) -> dict[str, Any]:
    """Return a small copy of a mask (H, W), its mean and its statistics.

    In `masks.json`, `coverage` is the mean of the mask. `mask_coverage` is the share of pixels above 0.5;
    records of older versions do not have it.
    """
    if mask is None:
        return {"mask": None}
    small = F.adaptive_avg_pool2d(mask[None, None], min(SIDE, mask.shape[-1]))[0, 0]
    return {
        "mask": small.numpy(),
        "coverage": float(mask.mean()),
        "mask_coverage": float(mask_coverage(mask[None])),
        "entropy": float(mask_entropy(mask[None])),
    }


def _truth(mask: Tensor | None, true_masks: TrueMasks | None, position: int) -> dict[str, Any]:
    """Return the true mask of a video's frames, (T, h, w) from 0 to 255, and the quality of `mask`."""
    if mask is None or true_masks is None or not true_masks.is_named(position):
        return {}
    try:
        figure = figure_of(true_masks.read(position), mask.shape[-1])
    except MaskError as error:
        return {"mask_quality": str(error)}
    quality = video_mask_quality(mask.numpy(), figure)
    small = F.adaptive_avg_pool2d(torch.from_numpy(figure)[None].float(), min(SIDE, mask.shape[-1]))[0]
    # JSON has no NaN, which a figure outside the view leads to.
    facts = {name: None if math.isnan(value) else value for name, value in quality._asdict().items()}
    return {"true_mask": (small * 255).round().byte().numpy(), "mask_quality": facts}


def _small(view: Tensor) -> npt.NDArray[np.uint8]:
    """Return a view (T, 3, H, W) in [0, 1] as pixels (T, h, w, 3) uint8."""
    # Average pooling instead of sampling: thin structures stay visible in the small picture.
    small = F.adaptive_avg_pool2d(view, min(SIDE, view.shape[-1]))
    pixels: npt.NDArray[np.uint8] = (small * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels


def _choose(pool: list[dict[str, Any]], *, max_videos: int) -> list[dict[str, Any]]:
    """Choose videos: half by the largest change in probability of the true class, half at random."""
    change = [video["adapted"]["p_true"] - video["zero_shot"]["p_true"] for video in pool]
    # Stable sort by size: the sign does not matter, so mistakes of the trained model appear as well.
    changed = sorted(range(len(pool)), key=lambda index: -abs(change[index]))[: (max_videos + 1) // 2]
    # The pool lists changed predictions first; from its end come the unchanged ones.
    others = [index for index in reversed(range(len(pool))) if index not in changed]
    at_random = others[: max_videos - len(changed)]
    return [
        pool[index]
        | {"why": f"among the most changed ({change[index]:+.2f})" if index in changed else "random"}
        for index in [*changed, *at_random]
    ]
