"""Similarity of classes in CLIP's text space, within one set of labels and between two.

All similarities are cosines of class texts, (N, D) L2-normalised, from one frozen text tower and one
template. CLIP's texts lie in a narrow cone, where cosines of 0.6 and more are usual. Compare them with each
other, not with 0.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evclip_ray.metrics.classification import ClassificationState
from evclip_ray.metrics.intervals import accuracy_interval

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Granularity:
    """Similarity of the classes of one set; all NaN for a single class.

    Attributes:
        mean_similarity: Mean over pairs of classes.
        mean_nearest: Mean over classes of the similarity to the nearest other class.
        max_similarity: Similarity of the two nearest classes.
    """

    mean_similarity: float
    mean_nearest: float
    max_similarity: float


@dataclasses.dataclass(frozen=True)
class Nearest:
    """A class, the nearest class of another set, and their cosine."""

    name: str
    nearest: str
    similarity: float


@dataclasses.dataclass(frozen=True)
class OverChance:
    """Zero-shot accuracy relative to chance.

    Attributes:
        top1: Accuracy.
        low: Lower end of its 95 % interval over units of videos.
        high: Upper end.
        chance: 1 / N for N classes.
        above_chance: (top1 - chance) / (1 - chance): 0 at chance, 1 if all videos are correct.
    """

    top1: float
    low: float
    high: float
    chance: float
    above_chance: float


def granularity(text: Array) -> Granularity:
    """Return the granularity of the classes with these (N, D) texts."""
    if len(text) < 2:
        return Granularity(math.nan, math.nan, math.nan)
    cosines = text @ text.T
    # The part above the diagonal has every pair once and no class with itself.
    pairs = cosines[np.triu_indices(len(text), 1)]
    nearest = class_similarity(text)
    return Granularity(float(pairs.mean()), float(nearest.mean()), float(pairs.max()))


def class_similarity(text: Array) -> Array:
    """Return the (N,) cosine of each class to the nearest other class; NaN for a single class."""
    if len(text) < 2:
        return np.full(len(text), np.nan)
    cosines = text @ text.T
    # A class must not be its own nearest class.
    np.fill_diagonal(cosines, -np.inf)
    nearest: Array = cosines.max(1)
    return nearest


def nearest_classes(
    names: Sequence[str], text: Array, other_names: Sequence[str], other_text: Array
) -> list[Nearest]:
    """Return the nearest class of another set for each class.

    Args:
        names: N classes.
        text: (N, D) text features of the classes, L2-normalised.
        other_names: K classes of the other set.
        other_text: (K, D) text features of the other classes, L2-normalised.
    """
    cosines = text @ other_text.T
    best = cosines.argmax(1)
    return [
        Nearest(name, other_names[column], float(cosines[row, column]))
        for row, (name, column) in enumerate(zip(names, best, strict=True))
    ]


def over_chance(
    logits: NDArray[np.floating], labels: NDArray[np.int64], units: Sequence[str] | None = None
) -> OverChance:
    """Return the accuracy relative to chance.

    Args:
        logits: (M, N) class scores.
        labels: (M,) class indices.
        units: (M,) source of each video, whose videos are alike; None if the videos are independent.
    """
    state = ClassificationState.of(logits, labels)
    groups = None if units is None else np.unique(np.asarray(units, str), return_inverse=True)[1]
    low, high = accuracy_interval(logits.argmax(1) == labels, groups)
    chance = 1 / logits.shape[1]
    above = (state.top1 - chance) / (1 - chance) if chance < 1 else math.nan
    return OverChance(state.top1, low, high, chance, above)
