"""Share of simulated studies and ladders that show an effect although there is none, and the power.

- gains: 4 identical steps of 4 trials. The gain of the last step over the first one must be 0. Three designs:
  `chain` starts each step from the 3 best points of the step below, as earlier versions did; `alone`;
  `shared` evaluates the best point of each step at every step.
- importance: scores that do not depend on the settings. At most 5 % of the studies may show a setting.
- transfer: 4 steps whose best learning rate is the same. At most 5 % of the ladders may say "moves".

- groups: coverage of the interval of a gain if the videos of a group share a difficulty and a gain of their
  own. It is that of 95 % if the interval draws groups.

Top-1 is over 72 validation videos unless noted. `sampler` is that of a study. The same command
gives the same numbers.

Run: python benchmarks/noise.py [gains] [importance] [transfer] [groups] [--repeats 400]
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import optuna

from evclip_ray.metrics.intervals import wilson_interval
from evclip_ray.records import LeaderboardRow, TrialState
from evclip_ray.scaling.bootstrap import Score, interval_of_difference
from evclip_ray.scaling.transfer import ScoredTrial, slope
from evclip_ray.training.per_video_scores import VideoScores
from evclip_ray.tuning.distributions import Distribution
from evclip_ray.tuning.importance import parameter_importance
from evclip_ray.tuning.optuna_storage import make_sampler
from evclip_ray.tuning.search_space import SearchSpace

VIDEOS, STEPS = 72, 4
LR = Distribution.parse("optim.lr", {"loguniform": [1e-5, 1.0]})
SPACE = SearchSpace.load(
    "noise",
    {
        "fixed": {"data.manifest": "none", "method.name": "ev_clip"},
        "search": {
            "optim.lr": {"loguniform": [1e-5, 1e-1]},
            "method.prompts": {"choice": ["both", "context"]},
            "method.mask.depth": {"int": [1, 4], "when": {"method.prompts": ["both"]}},
        },
    },
)
Point = dict[str, float]


def search(
    score: Callable[[Point], float],
    *,
    trials: int,
    seed: int,
    sampler: str = "tpe",
    first: Sequence[Point] = (),
) -> list[tuple[float, Point]]:
    """Run a study without training. Return score and point of each trial in order.

    Args:
        score: Top-1 of a point.
        trials: Number of trials.
        seed: Seed of the sampler.
        sampler: "tpe" or "random".
        first: Points to run first.
    """
    study = optuna.create_study(direction="maximize", sampler=make_sampler(sampler, seed=seed, trials=trials))
    for point in first:
        study.enqueue_trial(point)
    done = []
    for _ in range(trials):
        trial = study.ask()
        point = SPACE.sample(trial)
        top1 = score(point)
        study.tell(trial, top1)
        done.append((top1, point))
    return done


def gains(repeats: int) -> Iterator[str]:
    """Yield one line per design: the mean gain of the last of 4 identical steps with its 95 % interval."""
    drawn: dict[str, list[float]] = {"chain": [], "alone": [], "shared": []}
    for repeat in range(repeats):
        draw = np.random.default_rng(repeat)

        def score(point: Point, draw: np.random.Generator = draw) -> float:
            accuracy = 0.8 - 0.2 * abs(math.log10(point["optim.lr"]) + 3)
            return draw.binomial(VIDEOS, accuracy) / VIDEOS

        chain: list[list[tuple[float, Point]]] = []
        for _ in range(STEPS):
            ranked = sorted(chain[-1], key=lambda pair: -pair[0]) if chain else []
            first = [point for _, point in ranked[:3]]
            chain.append(search(score, trials=4, seed=int(draw.integers(2**31)), first=first))
        alone = [search(score, trials=4, seed=int(draw.integers(2**31))) for step in range(STEPS)]
        best = [max(step, key=lambda pair: pair[0])[1] for step in alone]
        shared = [
            step + [(score(point), point) for other, point in enumerate(best) if other != number]
            for number, step in enumerate(alone)
        ]
        for name, steps in (("chain", chain), ("alone", alone), ("shared", shared)):
            values = [max(top1 for top1, _ in step) for step in steps]
            drawn[name].append(100 * (values[-1] - values[0]))
    for name, values in drawn.items():
        error = 1.96 * np.std(values) / math.sqrt(len(values))
        yield (
            f"gains, {name}: {np.mean(values):+.2f} points ({np.mean(values) - error:+.2f} to "
            f"{np.mean(values) + error:+.2f})"
        )


def importance(repeats: int) -> Iterator[str]:
    """Yield the share of studies that show a setting, without an effect and with one."""
    for trials, sampler, effect in (
        (8, "tpe", None),
        (16, "tpe", None),
        (32, "tpe", None),
        (8, "random", None),
        (32, "random", None),
        (16, "tpe", "optim.lr"),
        (32, "tpe", "optim.lr"),
        (32, "tpe", "method.prompts"),
        (32, "random", "optim.lr"),
        (32, "random", "method.prompts"),
    ):
        shown, largest, seconds = [], [], []
        for repeat in range(repeats):
            draw = np.random.default_rng(repeat)

            def score(point: Point, draw: np.random.Generator = draw, effect: str | None = effect) -> float:
                accuracy = 0.5
                if effect == "optim.lr":
                    accuracy = 0.7 - 0.1 * abs(math.log10(point[effect]) + 3)
                elif effect:
                    accuracy += 0.1 if point[effect] == "both" else -0.1
                return draw.binomial(VIDEOS, accuracy) / VIDEOS

            done = search(score, trials=trials, seed=repeat, sampler=sampler)
            rows = [
                LeaderboardRow(str(n), dict(point), TrialState.COMPLETE, epochs=1, val_top1=top1)
                for n, (top1, point) in enumerate(done)
            ]
            start = time.perf_counter()
            ranked = parameter_importance(SPACE, rows)
            seconds.append(time.perf_counter() - start)
            largest.append(ranked[0]["importance"] or 0.0)
            shown.append({row["path"] for row in ranked if row["status"] == "ok"})
        hits = np.mean([effect in paths if effect else bool(paths) for paths in shown])
        name = f"shows {effect}, which has an effect" if effect else "shows something without an effect"
        yield (
            f"importance, {trials} trials, {sampler}: {name} in {hits:.1%} ({_range(hits, repeats)}); "
            f"largest share {np.median(largest):.2f} (median); {np.median(seconds):.2f} s"
        )


def transfer(repeats: int) -> Iterator[str]:
    """Yield the share of ladders that say "moves", without a move and with one."""
    for trials, videos, fall, move in (
        (4, VIDEOS, 0.0, 0.0),
        (4, VIDEOS, 0.1, 0.0),
        (4, VIDEOS, 0.2, 0.0),
        (8, VIDEOS, 0.1, 0.0),
        (8, VIDEOS, 0.2, 0.0),
        (8, 1000, 0.2, 0.0),
        (16, 1000, 0.2, 0.0),
        (8, VIDEOS, 0.2, 1.0),
        (16, VIDEOS, 0.2, 0.5),
        (16, VIDEOS, 0.2, 1.0),
        (16, 1000, 0.2, 0.5),
    ):
        said = []
        for repeat in range(repeats):
            draw = np.random.default_rng(repeat)
            hard = 0.25 * draw.uniform(-1, 1, videos)
            steps = []
            for step in range(STEPS):
                # Costs of 1, 3.2, 10 and 32: half a decade between two steps.
                best = -3 + move * step / 2
                rates = draw.uniform(-5, 0, trials)
                accuracy = np.clip(0.75 + 0.03 * step - fall * abs(rates - best), 0.03, 0.97)
                right = draw.uniform(size=(trials, videos)) < accuracy[:, None] + hard
                steps.append((10 ** (step / 2), [_scored(r, x) for r, x in zip(right, rates, strict=True)]))
            said.append(slope(steps, LR)["status"] == "moves")
        case = f"the best value moves by {move:g} decades per decade" if move else "nothing moves"
        yield (
            f"transfer, {trials} trials, {videos} videos, top-1 falls by {fall:g} per decade, {case}: "
            f'"moves" in {np.mean(said):.1%} ({_range(np.mean(said), repeats)})'
        )


def _scored(right: np.ndarray, rate: float) -> ScoredTrial:
    each = VideoScores("same", right, np.zeros(len(right), np.float32))
    row = LeaderboardRow("t", {LR.path: 10.0**rate}, TrialState.COMPLETE)
    return ScoredTrial(row, Score(float(right.mean()), len(right), each))


def _range(share: float, count: int) -> str:
    low, high = wilson_interval(round(share * count), count)
    return f"{low:.1%} to {high:.1%}"


def groups(repeats: int) -> Iterator[str]:
    """Yield the coverage of the interval of a gain with and without the groups of the videos."""
    for num_groups, size in ((6, 12), (12, 6), (25, 12)):
        group = np.repeat(np.arange(num_groups), size)
        covered: dict[str, list[bool]] = {"videos": [], "groups": []}
        for repeat in range(repeats):
            draw = np.random.default_rng(repeat)
            hard, own = draw.normal(0, 0.25, num_groups)[group], draw.normal(0, 0.15, num_groups)[group] / 2
            before, after = (draw.uniform(size=len(group)) < 0.6 + hard + change for change in (-own, own))
            for unit, recorded in (("videos", None), ("groups", group)):
                scores = [
                    Score(float(right.mean()), len(right), VideoScores("same", right, np.zeros(1), recorded))
                    for right in (before, after)
                ]
                low, high = interval_of_difference(*scores)
                covered[unit].append(low <= 0 <= high)
        for unit, hits in covered.items():
            yield (
                f"groups, {num_groups} of {size} videos: an interval over {unit} covers a gain of 0 in "
                f"{np.mean(hits):.1%} ({_range(float(np.mean(hits)), repeats)})"
            )


PARTS = {"gains": gains, "importance": importance, "transfer": transfer, "groups": groups}


def main() -> None:
    """Print the lines of the parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--repeats", type=int, default=400)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for part in arguments.parts or PARTS:
        for line in PARTS[part](arguments.repeats):
            print(line, flush=True)


if __name__ == "__main__":
    main()
