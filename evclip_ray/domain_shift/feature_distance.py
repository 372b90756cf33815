"""Distances between two sets of videos in a frozen feature space, compared with chance.

    frechet = |m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2))
    mmd2_linear = |m_a - m_b|^2

where m are the means and C the covariances of the two sets. Sources: Dowson and Landau (1982), also the D of
FID and FVD; Gretton et al. (2012), with a linear kernel. The third distance is the balanced, cross-validated
error of a classifier of the two sets: 0.5 if they cannot be separated, 0 if they always can. The proxy
A-distance is 2 (1 - 2 error) (Ben-David et al., 2007).

All distances are positive for any two samples. *Chance* is the mean over permutations that assign the units
(see `effect_size`) at random to sets of the same size. p is the share of permutations that are at least as
far apart. Units are drawn by name, so the order of the videos has no effect.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

# With the observed assignment there are 1000, so the smallest possible p is 0.001.
_NUM_PERMUTATIONS = 999
# Each needs a matrix decomposition. 20 are enough for the mean, but too few for a p.
_NUM_FRECHET_PERMUTATIONS = 20
_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Distance:
    """One distance, its mean under permutation, and its p (None: not computed)."""

    name: str
    value: float
    chance: float
    p: float | None


def feature_distances(
    a: Array, b: Array, *, units_a: Sequence[str], units_b: Sequence[str], seed: int
) -> list[Distance]:
    """Return the Frechet distance, MMD^2 and classifier error between two sets.

    Args:
        a: (M, D) features of the first set.
        b: (K, D) features of the second set.
        units_a: (M,) unit of each video of `a`.
        units_b: (K,) unit of each video of `b`.
        seed: Seed of the permutations and of the folds.

    Raises:
        ValueError: A set has fewer than two videos.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"distances need at least 2 videos in each set, got {len(a)} and {len(b)}")
    features = np.concatenate([a, b]).astype(np.float64)
    # No distance depends on the origin, and small numbers lose fewer digits in the products below.
    features = features - features.mean(0)
    random = np.random.default_rng(seed)
    folds = _folds([*units_a, *units_b], random)
    permutations = _permutations(units_a, units_b, random)
    frechet = np.array(
        [
            frechet_distance(features[row], features[~row])
            for row in permutations[: 1 + _NUM_FRECHET_PERMUTATIONS]
        ]
    )
    mmd = _squared_mean_differences(features, permutations)
    error = _classifier_errors(features, permutations, folds)
    # Permutations that differ from the observed distance by rounding errors only count as equal.
    slack = 1e-9 * max(float(mmd.max()), 1e-30)
    # Row 0 is the observed assignment and counts as one of the permutations, so p is never 0.
    return [
        Distance("frechet", float(frechet[0]), float(frechet[1:].mean()), None),
        Distance("mmd2_linear", float(mmd[0]), float(mmd[1:].mean()), float(np.mean(mmd >= mmd[0] - slack))),
        Distance(
            "classifier_error", float(error[0]), float(error[1:].mean()), float(np.mean(error <= error[0]))
        ),
    ]


def frechet_distance(a: Array, b: Array) -> float:
    """Return the squared Frechet distance of the Gaussians fitted to `a` (M, D) and `b` (K, D); M, K >= 2.

    With C = X^T X / (n - 1) of centred X, Tr (C_a C_b)^(1/2) is the sum of the singular values of
    X_a X_b^T / sqrt((M - 1) (K - 1)). This avoids the root of a covariance, which is singular if M <= D.
    """
    shift = a.mean(0) - b.mean(0)
    # R of X = QR has R^T R = X^T X, and at most D rows for any number of videos.
    half_a, half_b = _triangle(_scaled(a)), _triangle(_scaled(b))
    common = np.linalg.svd(half_a @ half_b.T, compute_uv=False).sum()
    # |R|^2, the sum of all squares, is the trace of the covariance R^T R. Rounding can make a distance of 0
    # negative.
    return float(max(shift @ shift + (half_a**2).sum() + (half_b**2).sum() - 2 * common, 0.0))


def principal_plane(features: Sequence[Array]) -> list[Array]:
    """Return each (M, D) set projected on the first two principal directions of all sets together, (M, 2).

    The largest component of a direction is positive, so that a picture has one orientation.
    """
    pooled = np.concatenate(features)
    centre = pooled.mean(0)
    # R of X = QR has the right singular vectors of X, and at most D rows.
    directions = np.linalg.svd(_triangle(pooled - centre), full_matrices=False)[2][:2]
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(1)])
    return [(x - centre) @ (directions * signs[:, None]).T for x in features]


def _triangle(x: Array) -> Array:
    triangle: Array = np.asarray(np.linalg.qr(x, mode="r"))
    return triangle


def _scaled(x: Array) -> Array:
    scaled: Array = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    return scaled


def _permutations(units_a: Sequence[str], units_b: Sequence[str], random: np.random.Generator) -> Flags:
    """Return (1 + P, M + K) flags of the videos in the first set: as observed, then P permutations."""
    # The prefixes make a unit of both sets two units, as each set holds its own part of it.
    names = [*(f"a {unit}" for unit in units_a), *(f"b {unit}" for unit in units_b)]
    _, member = np.unique(names, return_inverse=True)
    in_a = np.arange(len(names)) < len(units_a)
    observed = np.zeros(member.max() + 1, dtype=bool)
    observed[member[in_a]] = True
    # `permuted` shuffles each row on its own. Whole units move, so that similar videos stay together.
    permuted = random.permuted(np.tile(observed, (_NUM_PERMUTATIONS, 1)), axis=1)
    rows = np.concatenate([observed[None], permuted])[:, member]
    # Units of unequal size can leave a set with one video, which has no covariance.
    usable = (rows.sum(1) >= 2) & ((~rows).sum(1) >= 2)
    permutations: Flags = rows[usable]
    return permutations


def _squared_mean_differences(features: Array, permutations: Flags) -> Array:
    difference = _means(features, permutations) - _means(features, ~permutations)
    squared: Array = (difference**2).sum(1)
    return squared


def _means(features: Array, chosen: Flags) -> Array:
    """Return the (P, D) means of the videos that each of (P, M) rows chooses; 0 if it chooses none."""
    means: Array = chosen.astype(np.float64) @ features / np.maximum(chosen.sum(1), 1)[:, None]
    return means


def _folds(units: Sequence[str], random: np.random.Generator) -> NDArray[np.int64]:
    """Return the fold of each video. A unit has one fold, even if it is in both sets."""
    names, member = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    # The remainders of a permutation are folds of equal size, up to one unit.
    folds: NDArray[np.int64] = (random.permutation(len(names)) % _FOLDS)[member]
    return folds


def _classifier_errors(features: Array, permutations: Flags, folds: NDArray[np.int64]) -> Array:
    """Return the (1 + P,) balanced, cross-validated errors of a linear discriminant.

        w = (S + s I)^-1 (m_a - m_b)

    where S is the scatter of all videos of the other folds, s its mean eigenvalue, and m the means of the
    sets. The threshold is halfway between the means. S does not depend on the sets, so one factorisation per
    fold serves every permutation.
    """
    predicted_a = np.zeros_like(permutations)
    for fold in np.unique(folds):
        training = folds != fold
        if not training.any():
            # There is only one unit and nothing to train on: every video is assigned to the second set.
            continue
        train, rows = features[training], permutations[:, training]
        scatter = train.T @ train / len(train)
        # The lower limit keeps the matrix invertible if all features are equal.
        ridge = max(float(np.trace(scatter)) / len(scatter), 1e-12) * np.eye(len(scatter))
        mean_a, mean_b = _means(train, rows), _means(train, ~rows)
        weights = np.linalg.solve(scatter + ridge, (mean_a - mean_b).T)
        # One dot product for each permutation: its midpoint times its weights.
        threshold = ((mean_a + mean_b) / 2 * weights.T).sum(1)
        score: Array = (features[~training] @ weights).T
        predicted_a[:, ~training] = score > threshold[:, None]
    # Errors are averaged over sets, not over videos. Otherwise a rule that always names the larger set would
    # look good.
    missed_a = (permutations & ~predicted_a).sum(1) / permutations.sum(1)
    missed_b = (~permutations & predicted_a).sum(1) / (~permutations).sum(1)
    errors: Array = (missed_a + missed_b) / 2
    return errors
