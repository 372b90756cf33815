"""Curves of accuracy over cost along a ladder, with bootstrap intervals over videos.

    power_law    top-1 = 1 - a x^-b
    saturating   top-1 = c - a x^-b

where
    x  cost of a step, divided by the geometric mean of the costs of all steps
    a  distance from the ceiling at x = 1, a >= 0
    b  exponent: a factor k of cost multiplies the distance from the ceiling by k^-b
    c  ceiling, c <= 1

For a fixed b both curves are linear in the other parameters. The least squares problem is therefore solved
exactly for each b of a grid. The score of a step is the validation top-1 of its best trial, which
overestimates the top-1 on new videos.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from evclip_ray.scaling.bootstrap import Floats, Score, how_drawn, is_number, middle, uncertain_top1

NEEDED = {"power_law": 3, "saturating": 4}
"""Minimum number of steps with different costs: one more than the parameters of the curve."""
FORMULA = {"power_law": "top1 = 1 - a x^-b", "saturating": "top1 = c - a x^-b"}
_EXPONENTS = {"power_law": np.linspace(-3, 3, 301), "saturating": np.geomspace(0.02, 6, 200)}
_CURVE = 41


@dataclasses.dataclass(frozen=True)
class StepScore:
    """Cost of a step and the score of its best trial."""

    step: str
    cost: float
    score: Score


def fit_costs(steps: Sequence[dict[str, Any]], costs: Sequence[str]) -> list[dict[str, Any]]:
    """Fit both curves over each kind of cost.

    Args:
        steps: Rows of ladder.csv, each with its `score`. Steps without a score or cost (failed, NaN, not
            measured) are skipped and listed in `left_out`.
        costs: Columns of the rows.
    """
    fits = []
    for cost in costs:
        scores = [
            StepScore(row["rung"], row[cost], row["score"])
            for row in steps
            if is_number(row[cost]) and row[cost] > 0 and row["score"] is not None
        ]
        fitted_steps = {score.step for score in scores}
        left_out = [row["rung"] for row in steps if row["rung"] not in fitted_steps]
        fits += [{"cost": cost, **fit(form, scores), "left_out": left_out} for form in NEEDED]
    return fits


def fit(form: str, scores: Sequence[StepScore]) -> dict[str, Any]:
    """Fit one curve.

    Args:
        form: "power_law" or "saturating".
        scores: Cost and score of each step.

    Returns:
        The record of fits.json: `status` ("fitted" or the reason for no fit), `parameters` with 95 %
        intervals, `rmse` in top-1 over the steps, `curve` as rows of cost, top1, low and high, and
        `intervals`, a description of the resampling.
    """
    costs = np.array([score.cost for score in scores], np.float64)
    different, needed = len(set(costs)), NEEDED[form]
    record: dict[str, Any] = {
        "form": form,
        "formula": FORMULA[form],
        "needed_rungs": needed,
        "rungs": different,
        "status": "fitted",
    }
    if different < needed:
        return {**record, "status": f"not enough steps: {different} of different cost, {needed} are needed"}
    # x = cost / reference is near 1, so that x^-b neither overflows nor vanishes for the largest exponents.
    reference = float(np.exp(np.log(costs).mean()))
    measured = [score.score for score in scores]
    top1, draws = np.array([score.top1 for score in measured]), uncertain_top1(measured)
    # Row 0 is the fit of the measured scores; the other rows are the fits of the resampled ones.
    best = _solve(form, costs / reference, np.vstack([top1, draws]))
    grid = np.geomspace(costs.min(), costs.max(), _CURVE)
    # The fitted curve is unbounded; top-1 is between 0 and 1.
    curves = np.clip(_predict(best, grid / reference), 0, 1)
    fitted = _predict(best[:1], costs / reference)[0]
    names = {"power_law": ("a", "b"), "saturating": ("a", "b", "c")}[form]
    return {
        **record,
        "intervals": how_drawn(measured),
        "reference_cost": reference,
        "parameters": {
            name: {"value": float(column[0]), "interval": list(middle(column[1:]))}
            for name, column in zip(names, best.T, strict=False)
        },
        "rmse": float(np.sqrt(np.mean((fitted - top1) ** 2))),
        "curve": [
            {"cost": float(x), "top1": float(column[0]), "low": low, "high": high}
            for x, column in zip(grid, curves.T, strict=True)
            for low, high in [middle(column[1:])]
        ],
    }


def _solve(form: str, x: Floats, top1: Floats) -> Floats:
    """Return the least squares solution a, b, c for each row of `top1`, (R, steps) -> (R, 3)."""
    exponents = _EXPONENTS[form]
    # (E, n): x^-b for each exponent of the grid and each step.
    basis = x[None, :] ** -exponents[:, None]
    # (R, E): one ceiling per row of `top1` and exponent; 1 for the power law.
    ceiling = np.ones((len(top1), len(exponents)))
    if form == "saturating":
        ceiling = np.clip(_ceilings(basis, top1), 0, 1)
    # Without a >= 0 a curve that falls away from its ceiling would be a valid fit.
    # (R, E). Least squares through the origin: a = sum (c - y) z / sum z^2, with z = x^-b.
    a = np.maximum(0, ((ceiling[:, :, None] - top1[:, None]) * basis).sum(-1) / (basis**2).sum(-1))
    # (R, E, n). The exponent with the smallest sum of squares is the solution of the row.
    residuals = ceiling[:, :, None] - a[:, :, None] * basis - top1[:, None]
    chosen = (residuals**2).sum(-1).argmin(1)
    rows = np.arange(len(top1))
    return np.stack([a[rows, chosen], exponents[chosen], ceiling[rows, chosen]], axis=1)


def _ceilings(basis: Floats, top1: Floats) -> Floats:
    """Return the intercept of the regression of top-1 on each basis, (E, n) and (R, n) -> (R, E)."""
    # The slope of a regression is cov(y, z) / var(z); centring z alone is enough for the covariance.
    centred = basis - basis.mean(1, keepdims=True)
    slopes = (top1[:, None] * centred).sum(-1) / (centred**2).sum(-1)
    ceilings: Floats = top1.mean(1)[:, None] - slopes * basis.mean(1)
    return ceilings


def _predict(parameters: Floats, x: Floats) -> Floats:
    """Return the top-1 of each curve at x, (R, 3) and (n,) -> (R, n)."""
    a, b, c = parameters.T[:, :, None]
    predicted: Floats = c - a * x[None, :] ** -b
    return predicted
