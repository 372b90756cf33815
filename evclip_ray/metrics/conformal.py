"""Split conformal prediction: sets of classes that hold the true one at a chosen level.

    C(x) = { j : 1 - p_j(x) <= q }    and the best class
    q = the k-th smallest of s_1, ..., s_n    with k = ceil((n + 1) level)

where p_j(x) is the probability of class j for video x, s_i = 1 - p_y(x_i) is the score of calibration video i
for its true class y, and n is the number of calibration videos. If k > n, the level cannot be reached with n
videos: q is 1, and the sets hold every class. Source: Vovk et al. (2005); Angelopoulos and Bates (2021),
section 1, with level = 1 - alpha.

If calibration and new videos are exchangeable, a set holds the true class with probability level or more,
whatever the model is. The score is LAC ("least ambiguous set-valued classifier"), which has the smallest mean
set of all scores (Sadinle et al. 2019), needs no randomisation, and compares one number with a probability.

We depart from it in one point: the best class is always in the set, so that no set is empty. The coverage can
only grow.
"""

import math

import numpy as np
from numpy.typing import NDArray


def conformal_quantile(
    probabilities: NDArray[np.float64], labels: NDArray[np.integer], level: float
) -> float:
    """Return q, the largest 1 - p of a class in the set, from 0 to 1.

    Args:
        probabilities: (n, N) probabilities of the classes.
        labels: (n,) indices of the true classes.
        level: Share of videos whose set holds the true class, between 0 and 1.
    """
    rank = rank_of(level, len(labels))
    if rank > len(labels):
        return 1.0
    scores = 1 - probabilities[np.arange(len(labels)), labels]
    return float(np.clip(np.sort(scores)[rank - 1], 0, 1))


def rank_of(level: float, num_videos: int) -> int:
    """Return k = ceil((n + 1) level), the rank of the quantile.

    >>> rank_of(0.9, 99), rank_of(0.9, 8)
    (90, 9)
    """
    # 0.9 * 100 must give 90, also where the product in floating point is a little above it.
    return math.ceil(round((num_videos + 1) * level, 9))


def conformal_sets(probabilities: NDArray[np.float64], quantile: float) -> NDArray[np.bool_]:
    """Return (B, N) flags of the classes in the set of each video.

    Args:
        probabilities: (B, N) probabilities of the classes.
        quantile: Result of `conformal_quantile`.
    """
    sets: NDArray[np.bool_] = 1 - probabilities <= quantile
    sets[np.arange(len(sets)), probabilities.argmax(axis=1)] = True
    return sets
