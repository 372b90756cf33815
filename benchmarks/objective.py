"""Simulate studies to compare the objectives `best`, `last` and `mean_of_last_K`.

    python benchmarks/objective.py --repeats 300

Each study draws learning curves, scores them on validation videos, stops trials by ASHA on the objective,
and delivers the checkpoint that belongs to the objective of the best trial. Printed for each objective, in
points:

    bias     reported value minus true accuracy of the delivered checkpoint
    regret   true accuracy of the best epoch of any trial, if none were stopped, minus that of the delivered
             checkpoint
    by length  bias of all complete trials minus bias of all trials that were stopped at the first rung

The true accuracy of trial j after epoch e of E is

    a_j(e) = a_0 + (A_j - a_0) (1 - exp(-e / tau_j)) + s cos-rate(e) n_je - d_j max(0, e - p_j) / E

where a_0 is the zero-shot accuracy and A_j the level of the point,
tau_j the time constant, 5 to 40 % of the epochs,
n_je standard normal with an autocorrelation of 0.5: the weights move while the rate is high,
d_j the loss by overfitting after epoch p_j, 0 for most trials.

A video is right if a latent normal variable is below the quantile of the accuracy. Parts of the variable
are common to all trials, to all epochs of a trial, and to neighbouring epochs.
"""

import argparse
import math

import numpy as np
from scipy.special import ndtri

from evclip_ray.objective import objective_values

OBJECTIVES = ("best", "last", "mean_of_last_3", "mean_of_last_5")
GRACE, FACTOR = 4, 3
OF_VIDEO, OF_TRIAL = 0.5, 0.3
"""Shares of the latent variance that all trials and that all epochs of a trial have in common."""


def curves(rng: np.random.Generator, trials: int, epochs: int, spread: float, overfit: float) -> np.ndarray:
    """Return true accuracies, (trials, epochs)."""
    epoch = np.arange(1, epochs + 1)
    start, level = 0.35, 0.55 + spread * rng.standard_normal((trials, 1))
    tau = epochs * rng.uniform(0.05, 0.4, (trials, 1))
    rate = (1 + np.cos(np.pi * epoch / epochs)) / 2
    moves = rng.standard_normal((trials, epochs))
    for e in range(1, epochs):
        moves[:, e] = 0.5 * moves[:, e - 1] + math.sqrt(0.75) * moves[:, e]
    overfits = rng.random((trials, 1)) < overfit
    peak = epochs * rng.uniform(0.3, 0.8, (trials, 1))
    drop = overfits * rng.uniform(0.02, 0.12, (trials, 1)) * np.maximum(0, epoch - peak) / epochs
    growth = start + (level - start) * (1 - np.exp(-epoch / tau))
    return np.clip(growth + 0.03 * rate * moves - drop, 0.02, 0.98)


def measured(rng: np.random.Generator, true: np.ndarray, videos: int) -> np.ndarray:
    """Return validation accuracies, (trials, epochs)."""
    trials, epochs = true.shape
    shared = math.sqrt(OF_VIDEO) * rng.standard_normal(videos)
    own = math.sqrt(OF_TRIAL) * rng.standard_normal((trials, videos))
    # Predictions stop changing from epoch to epoch as the learning rate falls to 0.
    rest = rng.standard_normal((trials, epochs, videos))
    for e in range(1, epochs):
        rate = (1 + math.cos(math.pi * e / epochs)) / 2
        rest[:, e] = math.sqrt(1 - rate**2) * rest[:, e - 1] + rate * rest[:, e]
    latent = shared + own[:, None] + math.sqrt(1 - OF_VIDEO - OF_TRIAL) * rest
    return (latent < ndtri(true)[..., None]).mean(2)


def lengths(values: np.ndarray) -> np.ndarray:
    """Return the epochs of each trial under ASHA, where the trials run one after another."""
    trials, epochs = values.shape
    rungs = [GRACE * FACTOR**k for k in range(10) if GRACE * FACTOR**k < epochs]
    recorded: dict[int, list[float]] = {rung: [] for rung in rungs}
    ends = np.full(trials, epochs)
    for trial in range(trials):
        for rung in rungs:
            value, others = values[trial, rung - 1], recorded[rung]
            stops = bool(others) and value < np.percentile(others, 100 * (1 - 1 / FACTOR))
            others.append(value)
            if stops:
                ends[trial] = rung
                break
    return ends


def study(
    rng: np.random.Generator, trials: int, epochs: int, videos: int, spread: float, overfit: float
) -> dict[str, list[float]]:
    """Return bias, regret and bias by length of one study for each objective."""
    true = curves(rng, trials, epochs, spread, overfit)
    scores = measured(rng, true, videos)
    result = {}
    for objective in OBJECTIVES:
        values = objective_values(scores.T, objective).T
        ends = lengths(values)
        reported = values[np.arange(trials), ends - 1]
        # `best` delivers its best epoch, the others their last one.
        epoch = [
            int(scores[j, :end].argmax()) if objective == "best" else end - 1 for j, end in enumerate(ends)
        ]
        delivered = true[np.arange(trials), epoch]
        bias = reported - delivered
        chosen = int(reported.argmax())
        long, short = bias[ends == epochs], bias[ends == GRACE]
        by_length = long.mean() - short.mean() if len(long) and len(short) else math.nan
        result[objective] = [bias[chosen], true.max() - delivered[chosen], by_length]
    return result


def main() -> None:
    """Print one line per number of videos, trials, epochs and objective."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--spread", type=float, default=0.06, help="standard deviation of the points' levels")
    parser.add_argument("--overfit", type=float, default=1 / 3, help="share of the trials that overfit")
    args = parser.parse_args()
    print("videos  trials  epochs  objective         bias   regret  (+-)   by length")
    for videos in (24, 72, 200, 500):
        for trials, epochs in ((8, 20), (32, 20), (32, 50)):
            rng = np.random.default_rng(videos + trials + epochs)
            studies = [
                study(rng, trials, epochs, videos, args.spread, args.overfit) for _ in range(args.repeats)
            ]
            for objective in OBJECTIVES:
                table = 100 * np.array([one[objective] for one in studies])
                bias, regret, by_length = np.nanmean(table, axis=0)
                error = table[:, 1].std() / math.sqrt(args.repeats)
                print(
                    f"{videos:6}  {trials:6}  {epochs:6}  {objective:15} {bias:6.2f}  {regret:6.2f}  "
                    f"{error:4.2f}  {by_length:6.2f}"
                )


if __name__ == "__main__":
    main()
