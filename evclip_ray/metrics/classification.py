"""Metrics that merge: sums over videos, so that workers' states add to the single-worker numbers exactly.

Exactly, because every sum is one of whole numbers: a loss and a confidence are rounded to ticks of
2^-24 (6e-8) once, for each video, and ticks add to the same total in any order.
"""

import dataclasses
from typing import Self

import numpy as np
import numpy.typing as npt

TICKS = 2**24
NUM_BINS = 15
_BIN_SUMS = 3


@dataclasses.dataclass
class ClassificationState:
    """What a set of scored videos adds up to, for N classes.

    `confusion`: (N, N) int64, row = true class, column = predicted class. `top5_hits`: videos whose
    true class is among the five best. `log_loss_ticks`: sum of -log p(true class), natural log, in ticks.
    `bins`: (3, 15) int64, of the videos whose confidence is in each bin: how many, how many of them
    are right, and the sum of their confidences in ticks.
    """

    confusion: npt.NDArray[np.int64]
    top5_hits: int
    log_loss_ticks: int
    bins: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, num_classes: int) -> Self:
        """The state of no video."""
        return cls.unpacked(np.zeros(num_classes**2 + 2 + _BIN_SUMS * NUM_BINS, np.int64), num_classes)

    @classmethod
    def of(cls, logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Self:
        """The state of B videos: `logits` (B, N), `labels` (B,).

        Raises:
            ValueError: a logit that is not a number, or is infinite.
        """
        scores = logits.astype(np.float64)
        broken = int((~np.isfinite(scores)).any(axis=1).sum())
        if broken:
            raise ValueError(f"logits must be finite; those of {broken} of {len(scores)} videos are not")
        state = cls.empty(scores.shape[1])
        chosen = scores.argmax(1)
        np.add.at(state.confusion, (labels, chosen), 1)
        true = scores[np.arange(len(labels)), labels]
        # A tie counts against us: the rank is the number of classes that score at least as high.
        rank = (scores >= true[:, None]).sum(1)
        state.top5_hits = int((rank <= 5).sum())
        best = scores.max(1)
        log_sum = np.log(np.exp(scores - best[:, None]).sum(1))
        state.log_loss_ticks = int(_ticks(best + log_sum - true).sum())
        confidence = np.exp(-log_sum)
        bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
        for row, values in enumerate((1, chosen == labels, _ticks(confidence))):
            np.add.at(state.bins[row], bins, values)
        return state

    def __add__(self, other: Self) -> Self:
        return self.unpacked(self.packed() + other.packed(), len(self.confusion))

    def packed(self) -> npt.NDArray[np.int64]:
        """All of it as one vector, to be summed over workers."""
        return np.concatenate(
            [self.confusion.ravel(), [self.top5_hits, self.log_loss_ticks], self.bins.ravel()]
        )

    @classmethod
    def unpacked(cls, vector: npt.NDArray[np.int64], num_classes: int) -> Self:
        """The state that `packed` wrote down."""
        confusion, (top5_hits, log_loss_ticks), bins = np.split(vector, [num_classes**2, num_classes**2 + 2])
        return cls(
            confusion.reshape(num_classes, num_classes), int(top5_hits), int(log_loss_ticks),
            bins.reshape(_BIN_SUMS, NUM_BINS),
        )  # fmt: skip

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
        return self.log_loss_ticks / TICKS / max(1, self.num_videos)

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

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: sum over bins of n_b / n |accuracy of b - mean confidence of b|.

        Guo et al., ICML 2017, equation 3, with 15 bins of equal width, open below and closed above.
        """
        _, right, confidence = self.bins
        return float(np.abs(right - confidence / TICKS).sum()) / max(1, self.num_videos)


def harmonic_mean(base: float, novel: float) -> float:
    """2 B N / (B + N), what base-to-novel protocols report; 0 where both are 0."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def _ticks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.rint(values * TICKS).astype(np.int64)
