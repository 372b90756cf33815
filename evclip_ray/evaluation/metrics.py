"""Metrics that merge: sums over videos, so that workers' states add to the single-worker numbers exactly."""

import dataclasses
import math
from typing import Self

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass
class ClassificationState:
    """What a set of scored videos adds up to, for N classes.

    `confusion`: (N, N) int64, row = true class, column = predicted class. `top5_hits`: videos whose
    true class is among the five best. `log_loss_sum`: sum of -log p(true class), natural log.
    """

    confusion: npt.NDArray[np.int64]
    top5_hits: int = 0
    log_loss_sum: float = 0.0

    @classmethod
    def empty(cls, num_classes: int) -> Self:
        """The state of no video."""
        return cls(np.zeros((num_classes, num_classes), np.int64))

    @classmethod
    def of(cls, logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Self:
        """The state of B videos: `logits` (B, N), `labels` (B,)."""
        scores = logits.astype(np.float64)
        state = cls.empty(scores.shape[1])
        np.add.at(state.confusion, (labels, scores.argmax(1)), 1)
        true = scores[np.arange(len(labels)), labels]
        # A tie counts against us: the rank is the number of classes that score at least as high.
        rank = (scores >= true[:, None]).sum(1)
        state.top5_hits = int((rank <= 5).sum())
        shifted = scores - scores.max(1, keepdims=True)
        log_p = (true - scores.max(1)) - np.log(np.exp(shifted).sum(1))
        state.log_loss_sum = float(-log_p.sum())
        return state

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.confusion + other.confusion,
            self.top5_hits + other.top5_hits,
            self.log_loss_sum + other.log_loss_sum,
        )

    @property
    def num_videos(self) -> int:
        """Videos scored."""
        return int(self.confusion.sum())

    @property
    def top1_hits(self) -> int:
        """Videos whose best class is the true one."""
        return int(np.trace(self.confusion))

    @property
    def top1(self) -> float:
        """Fraction of videos whose best class is the true one."""
        return self.top1_hits / max(1, self.num_videos)

    @property
    def top5(self) -> float:
        """Fraction of videos whose true class is among the five best."""
        return self.top5_hits / max(1, self.num_videos)

    @property
    def log_loss(self) -> float:
        """Mean cross-entropy in nats."""
        return self.log_loss_sum / max(1, self.num_videos)

    @property
    def per_class(self) -> npt.NDArray[np.float64]:
        """(N,) accuracy of each class; nan where a class has no video."""
        totals = self.confusion.sum(1)
        with np.errstate(invalid="ignore"):
            accuracy: npt.NDArray[np.float64] = np.diag(self.confusion) / np.where(totals > 0, totals, np.nan)
        return accuracy

    @property
    def mean_class_accuracy(self) -> float:
        """Mean of `per_class` over the classes that have a video."""
        present = self.per_class[~np.isnan(self.per_class)]
        return float(present.mean()) if len(present) else 0.0


def wilson_interval(hits: int, total: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion; 95 % with the default z.

    >>> [round(x, 3) for x in wilson_interval(8, 10)]
    [0.49, 0.943]
    """
    if total == 0:
        return (0.0, 1.0)
    p, zz = hits / total, z * z
    centre = (p + zz / (2 * total)) / (1 + zz / total)
    half = z * math.sqrt(p * (1 - p) / total + zz / (4 * total * total)) / (1 + zz / total)
    return (max(0.0, centre - half), min(1.0, centre + half))
