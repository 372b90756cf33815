"""Domain shift between sets of videos: visual factors, CLIP features and classes.

`measure` reads each video once, and `compare` compares every pair of sets. The measures are our choice and
are defined in `visual_factors`, `feature_distance` and `semantic_factors`. Those of published studies on
domain shift are not public, so the numbers cannot be compared with theirs.
"""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evclip_ray.artifacts import LEDGER, read_ledger, write_csv, write_ledger
from evclip_ray.data.shards.prepare import ShardSet
from evclip_ray.data.transforms import crop_batch, to_device
from evclip_ray.domain_shift import association
from evclip_ray.domain_shift.feature_distance import feature_distances
from evclip_ray.domain_shift.semantic_factors import (
    class_similarity,
    granularity,
    nearest_classes,
    over_chance,
)
from evclip_ray.domain_shift.visual_factors import VISUAL_FACTORS, visual_factors
from evclip_ray.formatting import counted
from evclip_ray.metrics.effect_size import cliffs_delta
from evclip_ray.metrics.scoring import autocast
from evclip_ray.models.batch import VideoBatch
from evclip_ray.models.methods.zero_shot import ZeroShot
from evclip_ray.optional import require

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
Row = dict[str, Any]
Tables = dict[str, list[Row]]
Progress = Callable[[int, int], None]

STAGE = "shift"
TITLES: dict[str, str] = {
    "visual": "How the sets look: Cliff's delta of b against a, 95 % interval",
    "features": "How far apart in zero-shot CLIP's video features; chance: dealt out at random",
    "semantic": "Classes: cosines of their texts; zero-shot top-1, 95 % interval, against chance",
    "labels": "Label sets: classes in common; mean cosine of a class to the nearest of the other set",
    "association": "What goes with being right: P(factor higher where right), 95 % interval; 0.5: nothing",
}
"""Titles of the tables that are shown, in their order. The table `nearest` is only written to a file."""
# Rule of thumb: a percentile bootstrap over fewer units is visibly too narrow.
_FEW_SOURCES = 10
CLASS_SIMILARITY = "class_similarity"
"""Factor of a video from its class: the cosine of the class to the nearest other class."""


@dataclasses.dataclass(frozen=True)
class Domain:
    """Measurements of one set of M videos.

    Attributes:
        name: Name of the set in the tables.
        paths: (M,) paths.
        units: (M,) unit of each video in a bootstrap, see `effect_size`.
        class_names: N classes.
        labels: (M,) indices into `class_names`.
        visual: Factor of `VISUAL_FACTORS` -> (M,) values.
        features: (M, D) video features of zero-shot CLIP, L2-normalised.
        logits: (M, N) zero-shot scores.
        text: (N, D) text features of the classes, L2-normalised.
    """

    name: str
    paths: Sequence[str]
    units: Sequence[str]
    class_names: Sequence[str]
    labels: NDArray[np.int64]
    visual: Mapping[str, Array]
    features: Array
    logits: Array
    text: Array

    @property
    def factors(self) -> dict[str, Array]:
        """All factors that `explain` compares with the predictions: name -> (M,) values."""
        return {**self.visual, CLASS_SIMILARITY: class_similarity(self.text)[self.labels]}


@torch.no_grad()
def measure(
    name: str,
    shards: ShardSet,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    method: ZeroShot,
    *,
    device: torch.device,
    batch_size: int,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Domain:
    """Measure view 0 of every video.

    Args:
        name: Name of the set in the tables.
        shards: Decoded videos.
        labels: (M,) indices into `class_names`.
        class_names: N classes.
        method: Zero-shot CLIP over `class_names`.
        device: Device of the method.
        batch_size: Videos per forward pass.
        dtype: Type for autocast, None for none.
        progress: Function that is called with the number of finished videos and of all videos.

    Raises:
        ValueError: The views have a single frame.
        ConfigError: OpenCV is not installed.
    """
    size = method.frozen.clip.image_size
    looks, features, logits = [], [], []
    for start in range(0, len(shards), batch_size):
        frames = shards.frames(range(start, min(start + batch_size, len(shards))))
        with autocast(device, dtype):
            output = method(VideoBatch(crop_batch(to_device(frames, device), size=size)))
        assert output.video_features is not None
        # Before the results are read: a GPU computes them meanwhile.
        looks += [visual_factors(video) for video in frames]
        features.append(_array(output.video_features))
        logits.append(_array(output.logits))
        if progress is not None:
            progress(start + len(frames), len(shards))
    visual = {factor: np.array([look[factor] for look in looks]) for factor in VISUAL_FACTORS}
    return Domain(
        name,
        shards.paths,
        _units(shards),
        class_names,
        labels,
        visual,
        np.concatenate(features),
        np.concatenate(logits),
        _array(method.text_features),
    )


def compare(domains: Sequence[Domain], *, seed: int = 0) -> Tables:
    """Return the rows of each table.

    `visual`, `features` and `labels` have rows for every pair of sets, in the given order. `semantic` has one
    row per set, and `nearest` one per class and other set.
    """
    for domain in domains:
        if (sources := len(set(domain.units))) < _FEW_SOURCES:
            log.warning(
                "%s: %s of %s; intervals over fewer than %s are too narrow",
                domain.name,
                counted(len(domain.units), "video"),
                counted(sources, "source"),
                counted(_FEW_SOURCES, "source"),
            )
    pairs = list(itertools.combinations(domains, 2))
    return {
        "visual": [row for a, b in pairs for row in _visual_rows(a, b, seed)],
        "features": [row for a, b in pairs for row in _feature_rows(a, b, seed)],
        "semantic": [_semantic_row(domain) for domain in domains],
        "labels": [_labels_row(a, b) for a, b in pairs],
        "nearest": [row for a, b in itertools.permutations(domains, 2) for row in _nearest_rows(a, b)],
    }


def explain(domains: Sequence[Domain], predictions: association.Rows, *, seed: int = 0) -> list[Row]:
    """Return the association of each factor with correct predictions, in the set with most of them.

    Raises:
        ValueError: No set contains any of the videos.
    """
    matches = [association.matched(predictions, domain.paths) for domain in domains]
    # The predictions belong to one set, but the sets can share some videos.
    best = max(range(len(domains)), key=lambda index: len(matches[index]))
    domain, pairs = domains[best], matches[best]
    if not pairs:
        raise ValueError(
            f"none of the {counted(len(predictions), 'prediction')} is of a video in one of the sets; the "
            f"first is of {predictions[0]['path']!r}: give the split that was evaluated, as in --split test"
        )
    visual = association.associate(predictions, pairs, domain.visual, domain.units, seed=seed)
    # All videos of a class share its similarity, so the bootstrap of this factor draws classes.
    classes = [domain.class_names[label] for label in domain.labels]
    similarity = {CLASS_SIMILARITY: domain.factors[CLASS_SIMILARITY]} if len(domain.class_names) > 1 else {}
    semantic = association.associate(predictions, pairs, similarity, classes, seed=seed)
    return [
        {
            "set": domain.name,
            "predictor": row.predictor,
            "factor": row.factor,
            "right": row.right,
            "wrong": row.wrong,
            "area": row.area.value,
            "low": row.area.low,
            "high": row.area.high,
        }
        for predictor in association.predictors(predictions)
        for row in [*visual, *semantic]
        if row.predictor == predictor
    ]


def claim(out: Path) -> None:
    """Raise an error before hours of work if the output folder or OpenCV cannot be used.

    Raises:
        ArtifactError: `out` contains the ledger of another stage.
        ConfigError: OpenCV is not installed.
    """
    require("cv2", extra="shift", purpose="camera motion")
    if (out / LEDGER).is_file():
        read_ledger(out, STAGE)


def write(
    out: Path,
    domains: Sequence[Domain],
    tables: Tables,
    *,
    inputs: Mapping[str, Any],
    weights: Mapping[str, str],
) -> None:
    """Write every table and every video's factors as CSV, and the ledger.

    Args:
        out: Folder of the files.
        domains: Sets of videos with their measurements.
        tables: Rows of each table, from `compare` and `explain`.
        inputs: Inputs of the comparison, for the ledger.
        weights: Origin of the frozen weights by network, for the ledger.
    """
    claim(out)
    for name, rows in {**tables, "videos": list(itertools.chain(*map(_video_rows, domains)))}.items():
        write_csv(out / f"{name}.csv", list(rows[0]), (row.values() for row in rows))
    counts = {domain.name: len(domain.paths) for domain in domains}
    write_ledger(out, STAGE, inputs=inputs, counts=counts, weights=dict(weights))


def set_names(sources: Sequence[str], splits: Sequence[str]) -> list[str]:
    """Return a short, unique name for each set: that of its file or folder, with the split if needed.

    >>> set_names(["day/manifest.csv", "night.csv", "night.csv"], ["train", "train", "test"])
    ['day', 'night train', 'night test']
    """
    paths = [Path(source) for source in sources]
    short = [path.parent.name or path.stem if path.stem == "manifest" else path.stem for path in paths]
    # The split is appended only where two names are equal, and a number where even that is not enough.
    full = [
        f"{name} {split}" if short.count(name) > 1 else name
        for name, split in zip(short, splits, strict=True)
    ]
    return [
        f"{name} ({full[: index + 1].count(name)})" if full.count(name) > 1 else name
        for index, name in enumerate(full)
    ]


def _units(shards: ShardSet) -> list[str]:
    # The prefix keeps a group apart from a path of the same name. Without groups, every row is a unit of its
    # own.
    facts = zip(shards.groups, shards.paths, shards.rows, strict=True)
    return [f"group {group}" if group is not None else f"{path} {row}" for group, path, row in facts]


def _array(values: torch.Tensor) -> Array:
    # NumPy has no bfloat16, and the distances are computed in float64 anyway.
    array: Array = values.double().cpu().numpy()
    return array


def _visual_rows(a: Domain, b: Domain, seed: int) -> Iterable[Row]:
    for factor in VISUAL_FACTORS:
        delta = cliffs_delta(a.visual[factor], b.visual[factor], units_a=a.units, units_b=b.units, seed=seed)
        yield {
            "set_a": a.name,
            "set_b": b.name,
            "factor": factor,
            "median_a": float(np.median(a.visual[factor])),
            "median_b": float(np.median(b.visual[factor])),
            "delta": delta.value,
            "low": delta.low,
            "high": delta.high,
        }


def _feature_rows(a: Domain, b: Domain, seed: int) -> Iterable[Row]:
    for distance in feature_distances(a.features, b.features, units_a=a.units, units_b=b.units, seed=seed):
        yield {
            "set_a": a.name,
            "set_b": b.name,
            "distance": distance.name,
            "value": distance.value,
            "chance": distance.chance,
            "p": distance.p,
        }


def _semantic_row(domain: Domain) -> Row:
    sizes = {"set": domain.name, "videos": len(domain.paths), "classes": len(domain.class_names)}
    accuracy = over_chance(domain.logits, domain.labels, domain.units)
    return sizes | dataclasses.asdict(granularity(domain.text)) | dataclasses.asdict(accuracy)


def _labels_row(a: Domain, b: Domain) -> Row:
    """Return the similarity in both directions, because a small label set can be part of a large one."""
    there, back = _nearest(a, b), _nearest(b, a)
    return {
        "set_a": a.name,
        "set_b": b.name,
        "shared": len(set(a.class_names) & set(b.class_names)),
        "nearest_a_in_b": float(np.mean([near.similarity for near in there])),
        "nearest_b_in_a": float(np.mean([near.similarity for near in back])),
    }


def _nearest_rows(a: Domain, b: Domain) -> Iterable[Row]:
    for near in _nearest(a, b):
        yield {
            "set": a.name,
            "class": near.name,
            "other": b.name,
            "nearest": near.nearest,
            "similarity": near.similarity,
        }


def _nearest(a: Domain, b: Domain) -> list[Any]:
    return list(nearest_classes(a.class_names, a.text, b.class_names, b.text))


def _video_rows(domain: Domain) -> Iterable[Row]:
    factors = domain.factors
    for index, path in enumerate(domain.paths):
        label = domain.class_names[int(domain.labels[index])]
        values = {name: float(column[index]) for name, column in factors.items()}
        yield {"set": domain.name, "path": path, "class": label, **values}
