"""How far apart two sets of videos are in a frozen feature space, each distance beside what chance gives.

Frechet: |m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)), of two Gaussians with those means and covariances
(Dowson and Landau, 1982; the D of FID and FVD). MMD^2, linear kernel: |m_a - m_b|^2 (Gretton et al., 2012).
Classifier: the balanced error of telling the sets apart, cross-validated: 0.5 not at all, 0 always; the
proxy A-distance is 2 (1 - 2 error) (Ben-David et al., 2007).

All of them see a difference between any two samples. *Chance* is the mean over permutations that deal the
units (see `effect_size`) out to sets of the same size at random, and p the share of permutations at least
as far apart. Everything is drawn by the units' names: the order of the videos changes nothing.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

_PERMUTATIONS = 999
# A decomposition each: enough for the mean, too few for a p.
_FRECHET_PERMUTATIONS = 20
_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Distance:
    """One distance, its mean under permutation, and the p of the observed (None: not computed)."""

    name: str
    value: float
    chance: float
    p: float | None


def feature_distances(
    a: Array, b: Array, *, units_a: Sequence[str], units_b: Sequence[str], seed: int
) -> list[Distance]:
    """Frechet, MMD^2 and classifier error between `a` (M, D) and `b` (K, D).

    Raises:
        ValueError: fewer than two videos in a set.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"distances need at least 2 videos in each set, got {len(a)} and {len(b)}")
    features = np.concatenate([a, b]).astype(np.float64)
    features = features - features.mean(0)
    random = np.random.default_rng(seed)
    folds = _folds([*units_a, *units_b], random)
    deals = _deals(units_a, units_b, random)
    frechet = np.array(
        [frechet_distance(features[row], features[~row]) for row in deals[: 1 + _FRECHET_PERMUTATIONS]]
    )
    mmd = _squared_mean_differences(features, deals)
    error = _classifier_errors(features, deals, folds)
    # A permutation that is as far but for rounding is as far.
    slack = 1e-9 * max(float(mmd.max()), 1e-30)
    return [
        Distance("frechet", float(frechet[0]), float(frechet[1:].mean()), None),
        Distance("mmd2_linear", float(mmd[0]), float(mmd[1:].mean()), float(np.mean(mmd >= mmd[0] - slack))),
        Distance(
            "classifier_error", float(error[0]), float(error[1:].mean()), float(np.mean(error <= error[0]))
        ),
    ]


def frechet_distance(a: Array, b: Array) -> float:
    """The squared Frechet distance of the Gaussians fitted to `a` (M, D) and `b` (K, D); M, K >= 2.

    With C = X^T X / (n - 1) of centred X, Tr (C_a C_b)^(1/2) is the sum of the singular values of
    X_a X_b^T / sqrt((M - 1) (K - 1)): no root of a covariance, which is singular wherever M <= D.
    """
    shift = a.mean(0) - b.mean(0)
    # R of X = QR has the same R^T R, and at most D rows however many videos there are.
    half_a, half_b = _triangle(_scaled(a)), _triangle(_scaled(b))
    common = np.linalg.svd(half_a @ half_b.T, compute_uv=False).sum()
    return float(max(shift @ shift + (half_a**2).sum() + (half_b**2).sum() - 2 * common, 0.0))


def principal_plane(features: Sequence[Array]) -> list[Array]:
    """Each (M, D) on the two directions in which all of them together vary most, (M, 2).

    A direction points to where its largest component is positive, so that a picture has one orientation.
    """
    pooled = np.concatenate(features)
    centre = pooled.mean(0)
    directions = np.linalg.svd(_triangle(pooled - centre), full_matrices=False)[2][:2]
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(1)])
    return [(x - centre) @ (directions * signs[:, None]).T for x in features]


def _triangle(x: Array) -> Array:
    triangle: Array = np.asarray(np.linalg.qr(x, mode="r"))
    return triangle


def _scaled(x: Array) -> Array:
    scaled: Array = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    return scaled


def _deals(units_a: Sequence[str], units_b: Sequence[str], random: np.random.Generator) -> Flags:
    """(1 + P, M + K): whether a video is in the first set, as observed and then as dealt at random."""
    names = [*(f"a {unit}" for unit in units_a), *(f"b {unit}" for unit in units_b)]
    _, member = np.unique(names, return_inverse=True)
    in_a = np.arange(len(names)) < len(units_a)
    observed = np.zeros(member.max() + 1, dtype=bool)
    observed[member[in_a]] = True
    dealt = random.permuted(np.tile(observed, (_PERMUTATIONS, 1)), axis=1)
    rows = np.concatenate([observed[None], dealt])[:, member]
    # Units of unequal size can leave a set with one video, of which there is no covariance.
    usable = (rows.sum(1) >= 2) & ((~rows).sum(1) >= 2)
    kept: Flags = rows[usable]
    return kept


def _squared_mean_differences(features: Array, deals: Flags) -> Array:
    difference = _means(features, deals) - _means(features, ~deals)
    squared: Array = (difference**2).sum(1)
    return squared


def _means(features: Array, chosen: Flags) -> Array:
    """(P, D): the mean of the videos that each of (P, M) rows chooses, 0 where it chooses none."""
    means: Array = chosen.astype(np.float64) @ features / np.maximum(chosen.sum(1), 1)[:, None]
    return means


def _folds(units: Sequence[str], random: np.random.Generator) -> NDArray[np.int64]:
    """The fold of each video; a unit has one fold, also where it is in both sets."""
    names, member = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    folds: NDArray[np.int64] = (random.permutation(len(names)) % _FOLDS)[member]
    return folds


def _classifier_errors(features: Array, deals: Flags, folds: NDArray[np.int64]) -> Array:
    """(1 + P,) balanced errors of a linear discriminant, each video judged by those of the other folds.

    w = (S + s I)^-1 (m_a - m_b), threshold halfway; S the scatter of all, s its mean eigenvalue. S does not
    depend on who is in which set, so one factorisation a fold serves every permutation.
    """
    said_a = np.zeros_like(deals)
    for fold in np.unique(folds):
        seen = folds != fold
        if not seen.any():
            # One unit in all: nothing to learn from, every video is said to be of the second set.
            continue
        train, rows = features[seen], deals[:, seen]
        scatter = train.T @ train / len(train)
        ridge = max(float(np.trace(scatter)) / len(scatter), 1e-12) * np.eye(len(scatter))
        mean_a, mean_b = _means(train, rows), _means(train, ~rows)
        weights = np.linalg.solve(scatter + ridge, (mean_a - mean_b).T)
        threshold = ((mean_a + mean_b) / 2 * weights.T).sum(1)
        score: Array = (features[~seen] @ weights).T
        said_a[:, ~seen] = score > threshold[:, None]
    missed_a = (deals & ~said_a).sum(1) / deals.sum(1)
    missed_b = (~deals & said_a).sum(1) / (~deals).sum(1)
    errors: Array = (missed_a + missed_b) / 2
    return errors
