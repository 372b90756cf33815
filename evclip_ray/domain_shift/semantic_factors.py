"""How near classes are to each other in CLIP's text space, within a set of labels and between two.

All similarities are cosines of the class texts, (N, D) L2-normalised, of one frozen text tower and one
template. CLIP's texts all lie in a narrow cone (cosines of 0.6 and more are usual): read them beside each
other, not against 0.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evclip_ray.metrics.classification import ClassificationState
from evclip_ray.metrics.intervals import wilson_interval

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Granularity:
    """How fine the classes of one set are: the finer, the nearer their texts.

    `mean_similarity`: over pairs of classes; `mean_nearest`: of each class to the one nearest to it;
    `max_similarity`: of the two nearest. nan for a single class.
    """

    mean_similarity: float
    mean_nearest: float
    max_similarity: float


@dataclasses.dataclass(frozen=True)
class Nearest:
    """A class, the nearest one of another set, and their cosine."""

    name: str
    nearest: str
    similarity: float


@dataclasses.dataclass(frozen=True)
class OverChance:
    """Zero-shot top-1, its 95 % Wilson interval, chance = 1 / N, and how far it is from chance to certain.

    `above_chance`: (top1 - chance) / (1 - chance), 0 at chance and 1 when all are right.
    """

    top1: float
    low: float
    high: float
    chance: float
    above_chance: float


def granularity(text: Array) -> Granularity:
    """The granularity of the classes whose texts are the rows of `text`."""
    if len(text) < 2:
        return Granularity(math.nan, math.nan, math.nan)
    cosines = text @ text.T
    pairs = cosines[np.triu_indices(len(text), 1)]
    nearest = class_similarity(text)
    return Granularity(float(pairs.mean()), float(nearest.mean()), float(pairs.max()))


def class_similarity(text: Array) -> Array:
    """(N,): the cosine of each class to the other one that is nearest to it; nan for a single class."""
    if len(text) < 2:
        return np.full(len(text), np.nan)
    cosines = text @ text.T
    np.fill_diagonal(cosines, -np.inf)
    nearest: Array = cosines.max(1)
    return nearest


def nearest_classes(
    names: Sequence[str], text: Array, other_names: Sequence[str], other_text: Array
) -> list[Nearest]:
    """For each class of one set, (N, D), the nearest of the other, (K, D)."""
    cosines = text @ other_text.T
    best = cosines.argmax(1)
    return [
        Nearest(name, other_names[column], float(cosines[row, column]))
        for row, (name, column) in enumerate(zip(names, best, strict=True))
    ]


def over_chance(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> OverChance:
    """Zero-shot accuracy relative to chance, of `logits` (M, N) and class indices `labels` (M,)."""
    state = ClassificationState.of(logits, labels)
    low, high = wilson_interval(state.top1_hits, state.num_videos)
    chance = 1 / logits.shape[1]
    above = (state.top1 - chance) / (1 - chance) if chance < 1 else math.nan
    return OverChance(state.top1, low, high, chance, above)
