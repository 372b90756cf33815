"""What the best trial answers on the videos that chose it, and what its masks look at, kept as files.

A report draws from these files alone, so that it can be drawn again when the checkpoint, the weights and
the videos are gone. An evaluation's folder gets `masks/`: `masks.npz` with `frames` (V, T, h, w, 3) uint8
and `masks` (V, h, w) float16, and `masks.json` with the answers before and after, or the reason why there
are no masks.
"""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from evclip_ray.artifacts import LEDGER, file_digest, read_json, read_ledger, replacing, write_json
from evclip_ray.data.transforms import crop_batch
from evclip_ray.evaluation.evaluate import assess, load_trained
from evclip_ray.evaluation.plan import Reading, plan_reading
from evclip_ray.metrics.multi_view import EvaluationViews
from evclip_ray.metrics.scoring import autocast
from evclip_ray.models.methods.base import Method, VideoBatch
from evclip_ray.models.video_encoder import IMAGENET_MEAN
from evclip_ray.training.build import autocast_dtype, build_method, pick_device, zero_shot_of
from evclip_ray.training.checkpoint import ADAPTER, read_record
from evclip_ray.training.datamodule import Videos, is_prepared, prepare
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning.study_folder import StudyFolder

FOLDER, RECORD, ARRAYS = "masks", "masks.json", "masks.npz"
SIDE = 128
"""Saved frames and masks are at most so many pixels high and wide: enough to see by, and small to keep."""

_CANDIDATES = 64
"""Videos among which the most changed are looked for."""

_BATCH = 8


def look_at_best(study: Path, out: Path, *, most: int, seed: int) -> Path:
    """Evaluate a study's best checkpoint on its validation videos into `out`, with masks; `out`.

    What is there already of the same checkpoint and choice is kept.

    Raises:
        ArtifactError: no best checkpoint, or its videos or weights are gone.
    """
    folder, checkpoint = StudyFolder(study), study / "best"
    record = read_record(checkpoint)
    experiment = ExperimentConfig.load(record["experiment"])
    made = {"checkpoint": file_digest(checkpoint / ADAPTER), "videos": most, "seed": seed}
    if is_made(out, made):
        return out
    videos = Videos.load(_videos_file(folder, experiment))
    reading = Reading(
        checkpoint, experiment, tuple(record["classes"]), "closed_set", "val", EvaluationViews(), {}
    )
    assess(reading, {"val": videos}, out=out)
    save_masks(reading, videos, out, made)
    return out


def _videos_file(folder: StudyFolder, experiment: ExperimentConfig) -> Path:
    """Where a trial's videos were written down: the only place, or by key (versions differ in it)."""
    written = sorted((folder.root / "videos").glob("*.json"))
    return written[0] if len(written) == 1 else folder.videos(videos_key(experiment))


def look_at_evaluation(evaluation: Path, *, cache: Path, most: int, seed: int) -> None:
    """Add masks to an evaluation of the test split (or another) that was made before.

    Raises:
        ArtifactError: its checkpoint, videos or weights are gone.
    """
    inputs = read_ledger(evaluation, "evaluation")["inputs"]
    checkpoint = _checkpoint_of(evaluation, Path(inputs["checkpoint"]))
    read_record(checkpoint)
    made = {"checkpoint": file_digest(checkpoint / ADAPTER), "videos": most, "seed": seed}
    if is_made(evaluation, made):
        return
    reading = plan_reading(
        checkpoint, inputs["experiment"], split=inputs["split"], cache=cache, protocol=inputs["protocol"],
        views=EvaluationViews.load(inputs["views"]),
    )  # fmt: skip
    plan = reading.plans[inputs.get("side", inputs["split"])]
    if is_prepared(plan, cache):
        save_masks(reading, prepare(plan, cache=cache), evaluation, made)


def _checkpoint_of(evaluation: Path, written: Path) -> Path:
    """The checkpoint that was evaluated; beside the evaluation (or the folder of its sides) if both moved."""
    beside = [folder / written.name for folder in evaluation.resolve().parents[:2]]
    return next((path for path in (written, *beside) if (path / ADAPTER).is_file()), written)


def is_made(evaluation: Path, made: Mapping[str, Any]) -> bool:
    """Whether an evaluation has masks of this checkpoint and choice."""
    path = evaluation / FOLDER / RECORD
    return (evaluation / LEDGER).is_file() and path.is_file() and read_json(path).get("made") == dict(made)


def save_masks(reading: Reading, videos: Videos, evaluation: Path, made: Mapping[str, Any]) -> None:
    """Write `evaluation/masks/` for `made["videos"]` of its videos: the most changed, and some by lot."""
    path = evaluation / FOLDER / RECORD
    trained, device = reading.trained, pick_device()
    among = trained if set(videos.classes) <= set(trained) else videos.classes
    adapted = load_trained(reading.checkpoint, reading.experiment, among)
    baseline = build_method(zero_shot_of(reading.experiment), videos.classes)
    positions = _candidates(evaluation, len(videos.sets[reading.split]), made["seed"])
    columns = [list(among).index(name) for name in videos.classes]
    pool = [
        found
        for group in np.array_split(positions, math.ceil(len(positions) / _BATCH))
        for found in _look(reading, videos, group, adapted, baseline, columns=columns, device=device)
    ]
    if not pool or pool[0]["mask"] is None:
        name = reading.experiment.method.name
        write_json(path, {"made": dict(made), "reason": f"{name}, as the best trial has it, has no mask"})
        return
    chosen = _choose(pool, most=made["videos"])
    frames = np.stack([video.pop("frames") for video in chosen])
    masks = np.stack([video.pop("mask") for video in chosen])
    with replacing(evaluation / FOLDER / ARRAYS) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, frames=frames, masks=masks.astype(np.float16))
    own = getattr(reading.experiment.method, "normalization", "own") == "own"
    record = {"made": dict(made), "split": reading.split, "seed": made["seed"], "videos": chosen}
    write_json(path, record | {"mean": adapted.frozen.clip.mean if own else IMAGENET_MEAN})


def _candidates(evaluation: Path, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Videos by lot, those whose answer changed before the others."""
    with (evaluation / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == count
    lot = np.random.default_rng(seed).permutation(count)
    changed = [place for place in lot if rows[place]["adapted"] != rows[place]["zero_shot"]]
    others = [place for place in lot if rows[place]["adapted"] == rows[place]["zero_shot"]]
    # At least a quarter by lot, so that what did not change is seen too.
    return np.array((changed[: _CANDIDATES * 3 // 4] + others)[:_CANDIDATES], np.int64)


@torch.no_grad()
def _look(
    reading: Reading, videos: Videos, positions: npt.NDArray[np.int64], adapted: Method, baseline: Method,
    *, columns: list[int], device: torch.device,
) -> list[dict[str, Any]]:  # fmt: skip
    """What both say of some videos; `mask` is None where the method has none."""
    found = videos.sets[reading.split]
    frames = torch.from_numpy(found.shards.frames(positions)).to(device)
    views = crop_batch(frames, size=adapted.frozen.clip.image_size)
    with autocast(device, autocast_dtype(reading.experiment, device)):
        output = adapted.eval()(VideoBatch(views))
        before = baseline.eval()(VideoBatch(views)).logits.float().softmax(-1).cpu()
    after = output.logits.float()[:, columns].softmax(-1).cpu()
    masks = [None] * len(positions) if output.mask is None else list(output.mask.float().cpu())
    return [
        {
            "path": found.shards.paths[position], "label": videos.classes[true], "true": int(true),
            "zero_shot": _answer(before[place], videos.classes, true),
            "adapted": _answer(after[place], videos.classes, true),
            "frames": _small(views[place].cpu()), **_mask_facts(masks[place]),
        }
        for place, (position, true) in enumerate(zip(positions, found.labels[positions], strict=True))
    ]  # fmt: skip


def _answer(probabilities: Tensor, classes: tuple[str, ...], true: int) -> dict[str, Any]:
    best = int(probabilities.argmax())
    return {"label": classes[best], "p": float(probabilities[best]), "p_true": float(probabilities[true])}


def _mask_facts(mask: Tensor | None) -> dict[str, Any]:
    """The mask (H, W) small; `coverage`: its mean; `entropy`: of mask / sum, over that of an even one."""
    if mask is None:
        return {"mask": None}
    share = (mask / mask.sum().clamp(min=1e-12)).flatten()
    entropy = float(-(share * share.clamp(min=1e-12).log()).sum()) / math.log(share.numel())
    small = F.adaptive_avg_pool2d(mask[None, None], min(SIDE, mask.shape[-1]))[0, 0]
    return {"mask": small.numpy(), "coverage": float(mask.mean()), "entropy": entropy}


def _small(view: Tensor) -> npt.NDArray[np.uint8]:
    """(T, 3, H, W) in [0, 1] -> (T, h, w, 3) uint8."""
    small = F.adaptive_avg_pool2d(view, min(SIDE, view.shape[-1]))
    pixels: npt.NDArray[np.uint8] = (small * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels


def _choose(pool: list[dict[str, Any]], *, most: int) -> list[dict[str, Any]]:
    """Half of `most` whose true class gained or lost the most probability, the rest as the lot has them."""
    change = [video["adapted"]["p_true"] - video["zero_shot"]["p_true"] for video in pool]
    changed = sorted(range(len(pool)), key=lambda place: -abs(change[place]))[: (most + 1) // 2]
    by_lot = [place for place in reversed(range(len(pool))) if place not in changed][: most - len(changed)]
    return [
        pool[place]
        | {"why": f"among the most changed ({change[place]:+.2f})" if place in changed else "drawn by lot"}
        for place in [*changed, *by_lot]
    ]
