"""Bias of the corrected score where a sampler draws points near good ones, in simulated studies.

    .venv/bin/python benchmarks/sampler.py --studies 400

The correction for the choice (`evclip_ray.metrics.choice`) repeats the choice among the trials that ran, but
not the sampler, which has read the same videos. Here the sampler of the product draws the points: three
settings (a learning rate, a number of prompts, a choice of three), told the objective of each trial after it
has ended, one trial after the other. `asha` also stops trials, as the default scheduler does. `selection.py`
has a limit case that is greedier than this sampler.

A video v is right in epoch e of a trial t at point x if

    sqrt(0.6) h_v + sqrt(near) f_v(x) + sqrt(0.3 - near) u_tv + sqrt(0.1) w_tev < q(x, e)

where h_v is how hard the video is,
f_v is a smooth random function of the point: trials at near points share their luck,
u_tv and w_tev are the luck of a trial and of an epoch,
q(x, e) is the threshold, which depends on the point by `effect`, and its true accuracy is Phi(q).

All of them have a standard normal distribution. `near` = 0.3 is the extreme: a point has no luck of its own.
The bias is measured with less noise than the mean error has: the luck of the videos with random points, whose
expectation is 0, is subtracted by regression.
"""

import argparse
import dataclasses
import functools
import math

import numpy as np
import optuna
from optuna.trial import TrialState
from scipy.special import ndtr, ndtri

from evclip_ray.metrics.choice import Candidate, corrected_for_choice, objective_in_bag, resampling
from evclip_ray.metrics.intervals import wilson_interval
from evclip_ray.objective import BEST, objective_values, objective_weights
from evclip_ray.tuning.optuna_storage import make_sampler

EPOCHS, GRACE, FACTOR = 10, 2, 3
"""Epochs of a trial, and the default settings of ASHA."""
EPOCH_SHARE = 0.1
CHOICES = ("context", "mask", "both")
FEATURES = 100


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Simulated study.

    Attributes:
        sampler: "tpe" or "random".
        videos: Number of validation videos.
        trials: Number of trials.
        effect: Standard deviation of the threshold over points.
        near: Share of the variance that near points have in common.
        asha: Whether ASHA stops trials.
        length: Distance at which luck is still alike, as a share of a setting's range.
        video: Share of the variance that all points have in common.
        objective: Objective of the study.
    """

    sampler: str
    videos: int = 72
    trials: int = 32
    effect: float = 0.0
    near: float = 0.3
    asha: bool = False
    length: float = 0.15
    video: float = 0.6
    objective: str = BEST

    def __str__(self) -> str:
        name = f"{self.sampler}{', asha' if self.asha else ''}"
        return (
            f"{name:14} {self.videos:4} {self.trials:3} {self.effect:.1f}  {self.near:.2f} {self.length:.2f} "
            f"{self.video:.1f} {self.objective:5}"
        )


class World:
    """Luck and true accuracy at each point of one simulated study.

    A point is (u, v, c): learning rate and number of prompts as shares of their ranges, and a choice's index.
    """

    def __init__(self, scenario: Scenario, random: np.random.Generator) -> None:
        self._scenario, self._random = scenario, random
        # Random Fourier features of a Gaussian kernel. Choices are one length apart.
        self._slopes = random.normal(0, 1 / scenario.length, (FEATURES, 2))
        self._choice = random.normal(0, 1, (FEATURES, len(CHOICES))) / math.sqrt(2)
        self._weights = random.normal(size=(scenario.videos, 2 * FEATURES))
        self._hard = random.normal(size=scenario.videos)
        self._optimum, self._slope = random.uniform(0.2, 0.8), random.normal()
        self._level = random.normal(size=len(CHOICES))

    def _smooth(self, points: np.ndarray) -> np.ndarray:
        """Return f_v(x) for points (P, 3): (P, V), of variance 1 over videos."""
        angles = points[:, :2] @ self._slopes.T + self._choice.T[points[:, 2].astype(int)]
        # Cosine and sine of each angle: the variance is 1 at every point.
        return np.hstack([np.cos(angles), np.sin(angles)]) @ self._weights.T / math.sqrt(FEATURES)

    def threshold(self, points: np.ndarray) -> np.ndarray:
        """Return q(x, e) for points (P, 3): (P, E)."""
        u, v, c = points.T
        # Each part is divided by its standard deviation over the range.
        rate = -((u - self._optimum) ** 2) / 0.1 + 1
        good = math.sqrt(0.6) * rate + math.sqrt(0.2) * (
            self._slope * (v - 0.5) / 0.29 + self._level[c.astype(int)]
        )
        learned = 2 * np.exp(-np.arange(EPOCHS) / 3)
        return ndtri(0.4) + self._scenario.effect * (good[:, None] - learned)

    def _common(self, points: np.ndarray) -> np.ndarray:
        scenario = self._scenario
        return math.sqrt(scenario.video) * self._hard + math.sqrt(scenario.near) * self._smooth(points)

    def run(self, point: np.ndarray) -> np.ndarray:
        """Return the answers (E, V) of a new trial."""
        scenario = self._scenario
        own = 1 - EPOCH_SHARE - scenario.video - scenario.near
        latent = self._common(point[None])[0] + math.sqrt(max(own, 0)) * self._random.normal(
            size=scenario.videos
        )
        noise = self._random.normal(size=(EPOCHS, scenario.videos))
        return latent + math.sqrt(EPOCH_SHARE) * noise < self.threshold(point[None])[0][:, None]

    def luck(self) -> float:
        """Return the mean error of 100 random points, without the noise of trials; its expectation is 0."""
        points = np.column_stack([self._random.random((100, 2)), self._random.integers(3, size=100)])
        threshold, scenario = self.threshold(points)[:, -1], self._scenario
        spread = math.sqrt(1 - scenario.video - scenario.near)
        right = ndtr((threshold[:, None] - self._common(points)) / spread)
        return float((right.mean(axis=1) - ndtr(threshold)).mean())


def length_of(values: np.ndarray, rungs: dict[int, list[float]]) -> int:
    """Return the epochs of a trial with these objective values under ASHA, and add it to the rungs."""
    for rung, others in rungs.items():
        stops = bool(others) and values[rung - 1] < np.percentile(others, 100 * (1 - 1 / FACTOR))
        others.append(values[rung - 1])
        if stops:
            return rung
    return EPOCHS


def search(scenario: Scenario, world: World, random: np.random.Generator) -> tuple[list, list]:
    """Return the points and the answers (E, V) of the trials of a study."""
    sampler = make_sampler(scenario.sampler, seed=int(random.integers(2**31)), trials=scenario.trials)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    rungs = {GRACE * FACTOR**k: [] for k in range(5) if GRACE * FACTOR**k < EPOCHS} if scenario.asha else {}
    points, answers = [], []
    for _ in range(scenario.trials):
        trial = study.ask()
        rate = trial.suggest_float("optim.lr", 1e-4, 1e-2, log=True)
        prompts = trial.suggest_int("method.context.length", 1, 16)
        choice = CHOICES.index(trial.suggest_categorical("method.prompts", CHOICES))
        point = np.array([(math.log10(rate) + 4) / 2, (prompts - 1) / 15, choice])
        right = world.run(point)
        values = objective_values(right.mean(1), scenario.objective)
        right = right[: length_of(values, rungs)]
        if len(right) < EPOCHS:
            trial.report(values[len(right) - 1], len(right))
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, values[-1])
        points.append(point)
        answers.append(right)
    return points, answers


def correct(answers: list, best: int, objective: str):
    """Return the corrected score of the best of trials with answers (E, V)."""
    rule = functools.partial(objective_weights, objective=objective)
    samples = resampling(answers[0].shape[1], None)
    candidates = [
        Candidate(number, functools.partial(np.asarray, right), objective_in_bag(right, rule, samples))
        for number, right in enumerate(answers)
    ]
    return corrected_for_choice(candidates, rule=rule, best=best)


def one_study(scenario: Scenario, random: np.random.Generator) -> list[float]:
    """Return errors before and after, whether each interval covers, and the luck of the videos."""
    world = World(scenario, random)
    points, answers = search(scenario, world, random)
    finals = [objective_values(right.mean(1), scenario.objective)[-1] for right in answers]
    best = int(np.argmax(finals))
    top1 = answers[best].mean(1)
    epoch = int(top1.argmax()) if scenario.objective == BEST else len(top1) - 1
    true = float(ndtr(world.threshold(points[best][None])[0, epoch]))
    corrected = correct(answers, best, scenario.objective)
    low, high = wilson_interval(float(top1[epoch]) * scenario.videos, scenario.videos)
    after_low, after_high = corrected.interval
    return [
        top1[epoch] - true,
        corrected.top1 - true,
        low <= true <= high,
        after_low <= true <= after_high,
        world.luck(),
    ]


def measure(scenario: Scenario, studies: int, seed: int) -> str:
    """Return biases with their standard errors in points, and coverages."""
    random = np.random.default_rng(seed)
    rows = np.array([one_study(scenario, random) for _ in range(studies)], np.float64)
    luck = rows[:, 4]
    cells = []
    for column in (0, 1):
        slope = np.cov(rows[:, column], luck)[0, 1] / luck.var(ddof=1)
        error = 100 * (rows[:, column] - slope * luck)
        cells.append(
            f"{error.mean():+5.2f} ({error.std() / math.sqrt(studies):.2f}) {rows[:, column + 2].mean():.2f}"
        )
    return " | ".join(cells)


SCENARIOS = (
    Scenario("tpe", trials=8, near=0.15),
    Scenario("tpe", trials=8, near=0.15, asha=True),
    Scenario("tpe", trials=8),
    Scenario("tpe", trials=8, asha=True),
    Scenario("tpe", trials=8, effect=0.3, asha=True),
    Scenario("tpe", near=0.0),
    Scenario("tpe", near=0.15),
    Scenario("tpe", near=0.15, asha=True),
    Scenario("tpe"),
    Scenario("tpe", asha=True),
    Scenario("random", asha=True),
    Scenario("tpe", effect=0.3, asha=True),
    Scenario("tpe", effect=0.8, asha=True),
    Scenario("tpe", videos=200, near=0.15, asha=True),
    Scenario("tpe", videos=200, asha=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=300, help="simulated studies per row")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print("sampler, videos, trials, effect, near, length | before: bias (standard error), coverage | after")
    for scenario in SCENARIOS:
        print(f"{scenario} | {measure(scenario, arguments.studies, arguments.seed)}", flush=True)


if __name__ == "__main__":
    main()
