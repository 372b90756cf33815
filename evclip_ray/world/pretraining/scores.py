"""Scores on scenes that no pretraining saw."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from evclip_ray.world.actions import ACTIONS, same_in_a_still
from evclip_ray.world.pretraining.corpus import CorpusArrays, open_corpus
from evclip_ray.world.pretraining.recipe import Corpus

TEMPLATE = "A video of {}."
"""Default class template of the methods."""

_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class ScoreSet:
    """Videos that a network is scored on.

    Attributes:
        name: Name, for example "held-out plain".
        corpus: How they were drawn.
        arrays: Frames and labels.
    """

    name: str
    corpus: Corpus
    arrays: CorpusArrays

    @classmethod
    def open(cls, name: str, corpus: Corpus, folder: Path) -> "ScoreSet":
        """Open a drawn set."""
        return cls(name, corpus, open_corpus(folder))

    def first(self, count: int) -> "ScoreSet":
        """Return the set of the first videos. Actions take turns, so all are in it."""
        arrays = {key: value[:count] for key, value in vars(self.arrays).items()}
        return ScoreSet(self.name, self.corpus, CorpusArrays(**arrays))

    def batches(self) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Yield frames (B, T, S, S, 3) uint8 and indices into ACTIONS (B,)."""
        for start in range(0, len(self.arrays.labels), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            frames = torch.from_numpy(np.array(self.arrays.frames[part]))
            yield frames, np.array(self.arrays.labels[part, 0], np.int64)


def zero_shot_scores(
    held: ScoreSet,
    encode_frames: Callable[[Tensor], Tensor],
    encode_texts: Callable[[Sequence[str]], Tensor],
    names: Sequence[str],
) -> dict[str, float]:
    """Return the zero-shot accuracy over the classes `names`, as the method `zero_shot` computes it.

    Args:
        held: Videos.
        encode_frames: (B, T, S, S, 3) uint8 -> features (B, T, D).
        encode_texts: N texts -> L2-normalised features (N, D).
        names: Class names.

    Returns:
        "accuracy", and "pose accuracy", which also counts the reverse action as right: no single frame tells
        raising from lowering.
    """
    texts = encode_texts([TEMPLATE.format(name) for name in names])
    order = np.array([list(ACTIONS).index(name) for name in names])
    right, same_pose = [], []
    for frames, labels in held.batches():
        features = F.normalize(encode_frames(frames).mean(1), dim=-1)
        predicted = order[(features @ texts.T).argmax(1).cpu().numpy()]
        right.append(predicted == labels)
        same_pose.append(_REPRESENTATIVE[predicted] == _REPRESENTATIVE[labels])
    return {"accuracy": _mean(right), "pose accuracy": _mean(same_pose)}


def label_scores(
    held: ScoreSet, predict: Callable[[Tensor], dict[str, Tensor]], names: Sequence[str]
) -> dict[str, float]:
    """Return the accuracy of a video network's classifiers.

    Args:
        held: Videos.
        predict: (B, T, S, S, 3) uint8 -> logits of "action" (B, len(ACTIONS)), "motion" and "part".
        names: Actions that the classifier of actions chooses from.

    Returns:
        "action", "motion" and "part".
    """
    chosen = np.array([list(ACTIONS).index(name) for name in names])
    right: dict[str, list[Any]] = {"action": [], "motion": [], "part": []}
    for frames, labels in held.batches():
        logits = {key: value.float().cpu().numpy() for key, value in predict(frames).items()}
        right["action"].append(chosen[logits["action"][:, chosen].argmax(1)] == labels)
        right["motion"].append(logits["motion"].argmax(1) == MOTION_LABELS[labels])
        right["part"].append(logits["part"].argmax(1) == PART_LABELS[labels])
    return {key: _mean(values) for key, values in right.items()}


def _mean(values: list[Any]) -> float:
    return float(np.concatenate(values).mean())


def _numbers(values: Sequence[object]) -> NDArray[np.int64]:
    unique = list(dict.fromkeys(values))
    return np.array([unique.index(value) for value in values])


MOTION_LABELS = _numbers([action.motion for action in ACTIONS.values()])
"""Number of the motion of each action."""
PART_LABELS = _numbers([action.part for action in ACTIONS.values()])
"""Number of the part of each action; whole-body actions share one."""
_REPRESENTATIVE = _numbers([min(same_in_a_still(name)) for name in ACTIONS])


def intervals(scores: Mapping[str, float], videos: int) -> dict[str, list[float]]:
    """Return each share with the bounds of Wilson's 95 % interval: [value, low, high].

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    where p is the share, n the number of videos and z = 1.96. Source: Wilson (1927).
    """
    zz = 1.959964**2
    result = {}
    for key, p in scores.items():
        centre = p + zz / (2 * videos)
        half = math.sqrt(zz * (p * (1 - p) / videos + zz / (4 * videos * videos)))
        bounds = [(centre - half) / (1 + zz / videos), (centre + half) / (1 + zz / videos)]
        result[key] = [round(value, 4) for value in (p, *bounds)]
    return result
