"""Classification metrics from sums over videos, which workers can add up without rounding errors.

Every sum is an integer. The loss and the confidence of each video are rounded once, to ticks of 2^-24 (6e-8),
and integers add up to the same total in any order. Merged states therefore equal the state of one worker.
"""

import dataclasses
from typing import Self

import numpy as np
import numpy.typing as npt

from evclip_ray.formatting import counted

TICKS = 2**24
NUM_BINS = 15
_BIN_SUMS = 3


@dataclasses.dataclass
class ClassificationState:
    """Sums over a set of scored videos, for N classes.

    Attributes:
        confusion: (N, N) int64, row = true class, column = predicted class.
        top5_hits: Number of videos whose true class is among the five best.
        log_loss_ticks: Sum of -log p(true class), natural log, in ticks.
        bins: (3, 15) int64. For the videos whose confidence is in each bin: their number, the number of
            correct ones, and the sum of their confidences in ticks.
    """

    confusion: npt.NDArray[np.int64]
    top5_hits: int
    log_loss_ticks: int
    bins: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, num_classes: int) -> Self:
        """Return the state of no videos."""
        return cls.unpacked(np.zeros(num_classes**2 + 2 + _BIN_SUMS * NUM_BINS, np.int64), num_classes)

    @classmethod
    def of(cls, logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Self:
        """Return the state of B scored videos.

        Args:
            logits: (B, N) scores of the classes.
            labels: (B,) indices of the true classes.

        Raises:
            ValueError: A logit is NaN or infinite.
        """
        # In float64, so that the rounding to ticks dominates and not the sum of the exponentials.
        scores = logits.astype(np.float64)
        num_broken = int((~np.isfinite(scores)).any(axis=1).sum())
        if num_broken:
            raise ValueError(
                f"logits must be finite; those of {num_broken} of {counted(len(scores), 'video')} "
                f"{'is' if num_broken == 1 else 'are'} NaN or infinite"
            )
        state = cls.empty(scores.shape[1])
        predicted = scores.argmax(1)
        # `add.at` counts repeated index pairs one by one. `confusion[labels, predicted] += 1` would count
        # each pair once.
        np.add.at(state.confusion, (labels, predicted), 1)
        true = scores[np.arange(len(labels)), labels]
        # The rank is the number of classes that score at least as high, so a tie counts as a miss.
        # Otherwise a model with constant logits would reach a top-5 of 100 %.
        rank = (scores >= true[:, None]).sum(1)
        state.top5_hits = int((rank <= 5).sum())
        best = scores.max(1)
        # The largest score is subtracted first, so that no exponential overflows.
        log_sum = np.log(np.exp(scores - best[:, None]).sum(1))
        state.log_loss_ticks = int(_ticks(best + log_sum - true).sum())
        # The softmax of the best class: exp(best - best) / sum_j exp(s_j - best).
        confidence = np.exp(-log_sum)
        for row, values in enumerate((1, predicted == labels, _ticks(confidence))):
            np.add.at(state.bins[row], bin_of(confidence), values)
        return state

    def __add__(self, other: Self) -> Self:
        return self.unpacked(self.packed() + other.packed(), len(self.confusion))

    def packed(self) -> npt.NDArray[np.int64]:
        """Return all sums as one vector, which can be summed over workers."""
        return np.concatenate(
            [self.confusion.ravel(), [self.top5_hits, self.log_loss_ticks], self.bins.ravel()]
        )

    @classmethod
    def unpacked(cls, vector: npt.NDArray[np.int64], num_classes: int) -> Self:
        """Return the state from the vector that `packed` returned."""
        confusion, (top5_hits, log_loss_ticks), bins = np.split(vector, [num_classes**2, num_classes**2 + 2])
        confusion, bins = confusion.reshape(num_classes, num_classes), bins.reshape(_BIN_SUMS, NUM_BINS)
        return cls(confusion, int(top5_hits), int(log_loss_ticks), bins)

    @property
    def num_videos(self) -> int:
        """Number of scored videos."""
        return int(self.confusion.sum())

    @property
    def top1_hits(self) -> int:
        """Number of videos whose best class is the true one."""
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
        """(N,) accuracy of each class; NaN for a class without videos."""
        totals = self.confusion.sum(1)
        with np.errstate(invalid="ignore"):
            # A division by NaN, not by 0: a class without videos has no accuracy and raises no warning.
            accuracy: npt.NDArray[np.float64] = np.diag(self.confusion) / np.where(totals > 0, totals, np.nan)
        return accuracy

    @property
    def mean_class_accuracy(self) -> float:
        """Mean of `per_class` over the classes that have videos."""
        present = self.per_class[~np.isnan(self.per_class)]
        return float(present.mean()) if len(present) else 0.0

    @property
    def calibration_error(self) -> float:
        """Expected calibration error.

            ECE = sum_b n_b / n |acc_b - conf_b|

        where b is one of 15 bins of equal width, open below and closed above,
        n_b is the number of videos in bin b and n the number of all videos,
        acc_b is the accuracy in bin b,
        conf_b is the mean confidence in bin b.
        Source: Guo et al., ICML 2017, equation 3.
        """
        _, num_correct, confidence = self.bins
        return float(np.abs(num_correct - confidence / TICKS).sum()) / max(1, self.num_videos)


def bin_of(confidence: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the bin of each confidence, from 0 to 14; see `ClassificationState.calibration_error`."""
    number = np.ceil(confidence * NUM_BINS).astype(np.int64) - 1
    bins: npt.NDArray[np.int64] = np.clip(number, 0, NUM_BINS - 1)
    return bins


def harmonic_mean(base: float, novel: float) -> float:
    """Return 2 B N / (B + N), the summary of base-to-novel protocols; 0 if both are 0.

    Args:
        base: Accuracy B on the base classes.
        novel: Accuracy N on the novel classes.
    """
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def _ticks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    # An int64 holds 2^39 nats in ticks (5e11), more than any set of videos reaches.
    return np.rint(values * TICKS).astype(np.int64)
