"""Rejection of uncertain videos: risk-coverage curve, its area, and the choice of a threshold.

A video is accepted if its best probability is at least a threshold. Coverage is the share of accepted videos,
and risk is the share of wrong ones among them. Source: El-Yaniv and Wiener, JMLR 2010; Geifman and El-Yaniv,
NeurIPS 2017.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from evclip_ray.artifacts import ArtifactError
from evclip_ray.formatting import counted

COLUMNS = ("threshold", "accepted", "coverage", "risk")


@dataclasses.dataclass(frozen=True)
class RiskCoverage:
    """Risk and coverage of n videos at every threshold that makes a difference, the highest one first.

    Attributes:
        threshold: (K,) smallest accepted probability.
        accepted: (K,) number of accepted videos.
        errors: (K,) number of wrong ones among them.
    """

    threshold: NDArray[np.float64]
    accepted: NDArray[np.int64]
    errors: NDArray[np.int64]

    @classmethod
    def of(cls, confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> "RiskCoverage":
        """Return the curve of n videos.

        Args:
            confidence: (n,) best probability of each video.
            right: (n,) flags: the best class is the true one.
        """
        # Videos of equal confidence are accepted together.
        threshold, of_video, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
        wrong = np.bincount(of_video, ~right, minlength=len(threshold))
        return cls(-threshold, np.cumsum(counts), np.cumsum(wrong).astype(np.int64))

    @property
    def coverage(self) -> NDArray[np.float64]:
        """(K,) share of accepted videos."""
        share: NDArray[np.float64] = self.accepted / max(1, self.num_videos)
        return share

    @property
    def risk(self) -> NDArray[np.float64]:
        """(K,) share of wrong videos among the accepted ones."""
        share: NDArray[np.float64] = self.errors / self.accepted
        return share

    @property
    def num_videos(self) -> int:
        """Number of videos."""
        return int(self.accepted[-1]) if len(self.accepted) else 0

    @property
    def area(self) -> float:
        """Area under the curve, the mean risk over all numbers of accepted videos.

            AURC = 1 / n sum_k risk of the k most confident videos

        Source: Geifman et al., ICLR 2019. Among videos of equal confidence, the errors are spread evenly.
        """
        counts = np.diff(self.accepted, prepend=0)
        wrong = np.repeat(np.diff(self.errors, prepend=0) / counts, counts)
        number = np.arange(1, len(wrong) + 1)
        return float((np.cumsum(wrong) / number).mean()) if len(wrong) else 0.0

    def rows(self) -> list[list[float]]:
        """Return one row per threshold, see `COLUMNS`."""
        columns = (self.threshold, self.accepted, self.coverage, self.risk)
        return [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def choose_threshold(curve: RiskCoverage, max_risk: float) -> float:
    """Return the threshold with the largest coverage whose risk is at most `max_risk`.

    It lies in the middle between the least confident accepted video and the next one, and is 0 if all videos
    are accepted. The risk on other videos can be higher: no bound is added for the number of videos.

    Args:
        curve: Curve of the validation videos.
        max_risk: Largest tolerated risk.

    Raises:
        ArtifactError: No threshold reaches it.
    """
    allowed = np.flatnonzero(curve.risk <= max_risk)
    if not len(allowed):
        best = int(curve.risk.argmin())
        raise ArtifactError(
            f"no rejection threshold reaches a risk of {max_risk:g}: the lowest on "
            f"{counted(curve.num_videos, 'validation video')} is {curve.risk[best]:.3f}, with "
            f"{curve.accepted[best]} accepted. Give a "
            "larger --reject-risk, or a threshold with --reject-below."
        )
    last = int(allowed[-1])
    if last == len(curve.threshold) - 1:
        return 0.0
    return float((curve.threshold[last] + curve.threshold[last + 1]) / 2)
