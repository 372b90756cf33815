"""Coverage of the printed 95 % intervals, before and after their correction, in simulated studies.

    .venv/bin/python benchmarks/selection.py --studies 400

A video is right in an epoch of a trial if a normal latent value is below the threshold of that epoch. The
value is a sum of the video (how hard it is), of the trial with the video, and of the epoch with the trial and
the video, so `video` and `trial` set how alike trials and epochs answer. Half of each part is shared by the
videos of a group. True accuracies are exact. The best trial and epoch are chosen as a study does.

The bias is measured with less noise than the mean error has: from each error, the mean error of all
candidates is subtracted, whose expectation is 0. With `--bootstrap`, the correction chooses on bootstrap
samples, as it did before; its interval had other weights then.
"""

import argparse
import dataclasses
import functools
import itertools
import math
from unittest import mock

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import bootstrap

from evclip_ray.metrics import choice
from evclip_ray.metrics.choice import Candidate, corrected_for_choice, objective_in_bag, resampling
from evclip_ray.metrics.intervals import accuracy_interval, bootstrap_interval, t_interval, wilson_interval
from evclip_ray.metrics.paired import paired_gain
from evclip_ray.objective import BEST, objective_values, objective_weights
from evclip_ray.scaling.bootstrap import Score, interval_of_difference
from evclip_ray.training.per_video_scores import VideoScores


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Simulated study.

    Attributes:
        name: Name in the table.
        videos: Number of validation videos.
        trials: Number of trials.
        epochs: Epochs of a trial.
        accuracy: True accuracy without an effect.
        effect: Standard deviation of the trials' thresholds; also half of what a trial learns.
        video: Share of the variance that all answers to a video have in common.
        trial: Share that the epochs of a trial have in common.
        group: Videos per group; 1 for independent videos.
        objective: Objective of the study.
    """

    name: str
    videos: int = 72
    trials: int = 8
    epochs: int = 20
    accuracy: float = 0.4
    effect: float = 0.0
    video: float = 0.7
    trial: float = 0.2
    group: int = 1
    objective: str = BEST

    @property
    def groups(self):
        """Number of each video's group."""
        return np.arange(self.videos) // self.group

    def draw(self, random):
        """Return the answers (T, E, V) and the true accuracies (T, E)."""
        shape = (self.trials, self.epochs)
        threshold = np.full(shape, ndtri(self.accuracy))
        learned = np.exp(-np.arange(self.epochs) / 4)
        threshold += self.effect * (random.normal(size=(self.trials, 1)) - 2 * learned)
        latent = math.sqrt(self.video) * self._noise(random, 1, 1)
        latent = latent + math.sqrt(self.trial) * self._noise(random, self.trials, 1)
        latent = latent + math.sqrt(1 - self.video - self.trial) * self._noise(random, *shape)
        return latent < threshold[..., None], ndtr(threshold)

    def _noise(self, random, *shape):
        each = random.normal(size=(*shape, self.videos))
        if self.group == 1:
            return each
        of_group = random.normal(size=(*shape, self.groups[-1] + 1))[..., self.groups]
        return (each + of_group) / math.sqrt(2)


SCENARIOS = (
    Scenario("no effect"),
    Scenario("no effect, independent trials", video=0.0, trial=0.5),
    Scenario("no effect, trials alike", video=0.85, trial=0.1),
    Scenario("some effect", effect=0.3),
    Scenario("some effect, accuracy 0.85", effect=0.3, accuracy=0.85),
    Scenario("some effect, 32 trials of 50 epochs", effect=0.3, trials=32, epochs=50),
    Scenario("some effect, last", effect=0.3, objective="last"),
    Scenario("some effect, mean_of_last_3", effect=0.3, objective="mean_of_last_3"),
    Scenario("strong effect", effect=0.8),
    Scenario("strong effect, last", effect=0.8, objective="last"),
    Scenario("no effect, last", objective="last"),
    Scenario("24 videos", videos=24),
    Scenario("24 videos, some effect", videos=24, effect=0.3),
    Scenario("24 videos, some effect, last", videos=24, effect=0.3, objective="last"),
    Scenario("200 videos", videos=200),
    Scenario("200 videos, some effect", videos=200, effect=0.3),
    Scenario("200 videos, some effect, last", videos=200, effect=0.3, objective="last"),
    Scenario("500 videos", videos=500),
    Scenario("500 videos, some effect", videos=500, effect=0.3),
    Scenario("18 groups of 4", group=4),
    Scenario("18 groups of 4, some effect", group=4, effect=0.3),
    Scenario("18 groups of 4, some effect, last", group=4, effect=0.3, objective="last"),
    Scenario("18 groups of 4, strong effect", group=4, effect=0.8),
    Scenario("6 groups of 4, some effect, last", videos=24, group=4, effect=0.3, objective="last"),
    Scenario("125 groups of 4, some effect", videos=500, group=4, effect=0.3),
)


def correct(right, groups=None, objective=BEST, classes=None):
    """Return the corrected score of the best of trials with answers (T, E, V)."""
    rule = functools.partial(objective_weights, objective=objective)
    samples = resampling(right.shape[2], groups, classes)
    candidates = [
        Candidate(number, functools.partial(np.asarray, answers), objective_in_bag(answers, rule, samples))
        for number, answers in enumerate(right)
    ]
    best = int(objective_values(right.mean(2).T, objective)[-1].argmax())
    return corrected_for_choice(candidates, rule=rule, best=best, groups=groups, classes=classes)


@functools.lru_cache(maxsize=2)
def bootstrap_samples(videos, groups, _):
    """Return bootstrap samples of videos, or of their groups, for `choice._resampling`."""
    group = np.arange(videos) if groups is None else np.frombuffer(groups, np.int64)
    count = int(group.max()) + 1
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=choice.RESAMPLES)
    times = drawn[:, group].astype(np.float32)
    return choice.Resampling(times / times.sum(axis=1, keepdims=True), times == 0)


def best_of_study(scenario, random):
    """Return (estimate, interval) by method, and true accuracy and mean error of all candidates.

    The first two and the true accuracy are those of the chosen trial and epochs.
    """
    right, truth = scenario.draw(random)
    groups = None if scenario.group == 1 else scenario.groups
    top1 = right.mean(2)
    trial = int(objective_values(top1.T, scenario.objective)[-1].argmax())
    # (E,) share of each epoch in the score, one for the first of equal best epochs.
    weights = objective_weights(top1[trial][:, None], scenario.objective)[:, 0]
    if scenario.objective == BEST:
        weights = np.eye(scenario.epochs)[weights.argmax()]
    corrected = correct(right, groups, scenario.objective)
    answers = weights @ right[trial]
    best = float(answers.mean())
    methods = {
        "before": (best, wilson_interval(best * scenario.videos, scenario.videos)),
        "groups": (best, accuracy_interval(answers, groups)),
        "corrected": (corrected.top1, corrected.interval),
    }
    # With another objective than the best epoch, other epochs are no candidates.
    error = top1 - truth if scenario.objective == BEST else (top1 - truth) @ weights
    return methods, weights @ truth[trial], error.mean()


def coverage(scenario, studies, seed):
    """Return the bias and the coverage of each method over simulated studies."""
    random = np.random.default_rng(seed)
    found = {}
    for _ in range(studies):
        methods, true, error = best_of_study(scenario, random)
        for name, (estimate, (low, high)) in methods.items():
            found.setdefault(name, []).append((estimate - true - error, low <= true <= high, high - low))
    return {name: np.mean(rows, axis=0) for name, rows in found.items()}


def adaptive_search(studies, seed):
    """Print bias and coverage where a sampler draws points next to the best one, which is not repeated.

    A trial's answers change smoothly with two settings, so that neighbours of the best trial share its luck.
    """
    random = np.random.default_rng(seed)
    print(
        "\nno effect, 32 trials of 10 epochs, 72 videos: trials near the best | bias before | after, coverage"
    )
    for near in (0, 16, 24):
        found = []
        for _ in range(studies):
            right = _near_the_best(random, near)
            corrected = correct(right)
            low, high = corrected.interval
            found.append((right.mean(2).max() - 0.4, corrected.top1 - 0.4, low <= 0.4 <= high))
        before, after, covered = np.mean(found, axis=0)
        print(f"{near} | {before:+.3f} | {after:+.3f} {covered:.2f}", flush=True)


def _near_the_best(random, near, *, trials=32, epochs=10, videos=72, features=60):
    """Return the answers of trials, the last `near` of which are next to the best trial so far."""
    # Random Fourier features: a smooth random function of the settings for each video.
    slopes, phases = random.normal(0, 1 / 0.15, (features, 2)), random.uniform(0, 2 * np.pi, features)
    weights = random.normal(size=(videos, features)) * math.sqrt(2 / features)
    hard, points, right = random.normal(size=videos), [], []
    for number in range(trials):
        point = random.random(2)
        if number >= trials - near:
            best = int(np.argmax([answers.mean(1).max() for answers in right]))
            point = np.clip(points[best] + random.normal(0, 0.05, 2), 0, 1)
        latent = math.sqrt(0.6) * hard + math.sqrt(0.3) * (weights @ np.cos(slopes @ point + phases))
        latent = latent + math.sqrt(0.1) * random.normal(size=(epochs, videos))
        points.append(point)
        right.append(latent < ndtri(0.4))
    return np.array(right)


def preferred_classes(studies, seed):
    """Print bias and coverage where trials and epochs prefer classes, on balanced validation videos.

    The logit of a class is a sum of the preference, the video, the trial with the video, the epoch, and the
    signal for the true class. `classes unknown` divides the videos without regard to their classes.
    """
    random = np.random.default_rng(seed)
    labels, many = np.repeat(np.arange(6), 12), np.repeat(np.arange(6), 500)
    print(
        "\n72 videos of 6 classes, 8 trials of 10 epochs: preference, signal | bias before | "
        "classes unknown: bias, coverage | after: bias, coverage"
    )
    for preference, signal in itertools.product((0.0, 0.7, 2.0), (0.0, 1.5)):
        found = []
        for _ in range(studies):
            bias = preference * (random.normal(size=(8, 1, 1, 6)) + random.normal(size=(8, 10, 1, 6)))
            logits = bias + 0.7 * random.normal(size=(72, 6)) + signal * np.eye(6)[labels]
            logits = (
                logits + 0.5 * random.normal(size=(8, 1, 72, 6)) + 0.4 * random.normal(size=(8, 10, 72, 6))
            )
            right = logits.argmax(-1) == labels
            best = np.unravel_index(right.mean(2).argmax(), (8, 10))
            # The same three parts for each of many new videos.
            spread = math.hypot(0.7, 0.5, 0.4)
            new = bias[best] + spread * random.normal(size=(len(many), 6)) + signal * np.eye(6)[many]
            true = (new.argmax(-1) == many).mean()
            row = [right[best].mean() - true]
            for classes in (None, labels):
                corrected = correct(right, classes=classes)
                low, high = corrected.interval
                row += [corrected.top1 - true, low <= true <= high]
            found.append(row)
        cells = [
            f"{value:+.3f}" if k in (0, 1, 3) else f"{value:.2f}" for k, value in enumerate(np.mean(found, 0))
        ]
        print(
            f"{preference} {signal} | {cells[0]} | {cells[1]} {cells[2]} | {cells[3]} {cells[4]}", flush=True
        )


def one_model(studies, seed):
    """Print the coverage of the accuracy of one fixed model on grouped videos: Wilson, with groups."""
    random = np.random.default_rng(seed)
    print("\none model, groups of 5: groups, likeness, accuracy | Wilson | with groups")
    for count in (4, 12, 50):
        groups = np.repeat(np.arange(count), 5)
        for likeness in (0.0, 0.2, 0.5, 0.9):
            covered = []
            for _ in range(studies):
                alike = 1 / max(likeness, 1e-9) - 1
                shares = random.beta(0.7 * alike, 0.3 * alike, count)
                right = random.random(len(groups)) < shares[groups]
                intervals = wilson_interval(int(right.sum()), len(right)), accuracy_interval(right, groups)
                covered.append([low <= 0.7 <= high for low, high in intervals])
            print(f"{count} {likeness} 0.7 | " + " | ".join(f"{x:.2f}" for x in np.mean(covered, axis=0)))


def over_seeds(studies, seed):
    """Print the coverage of the mean over seeds: t, percentile bootstrap, and the corrected bootstrap."""
    random = np.random.default_rng(seed)
    print("\nmean over seeds: seeds | t | percentile bootstrap (before) | bootstrap_interval (after)")
    for count in (3, 5, 10):
        covered = []
        for _ in range(studies):
            values = random.normal(0.6, 0.03, count)
            plain = bootstrap(
                (values,), np.mean, n_resamples=999, method="percentile", rng=random
            ).confidence_interval
            after = bootstrap_interval(values, resamples=999)
            covered.append([low <= 0.6 <= high for low, high in (t_interval(values), plain, after)])
        print(f"{count} | " + " | ".join(f"{x:.2f}" for x in np.mean(covered, axis=0)))


def paired_gains(studies, seed):
    """Print the coverage of the gain of one model over another on the same videos, and false positives.

    Half of the latent variance is common to both models: the group's and the video's.
    """
    random = np.random.default_rng(seed)
    print(
        "\ngain: videos, per group, top-1 of both | bootstrap (before): coverage, not 0 | paired_gain (after)"
    )
    for videos, size in ((6, 1), (12, 1), (25, 1), (96, 1), (24, 4), (96, 4), (96, 12)):
        group = np.arange(videos) // size
        groups = group if size > 1 else None
        for before, after in ((0.33, 0.33), (0.33, 0.5)):
            found = []
            for _ in range(studies):
                luck = random.normal(size=group.max() + 1)[group] + random.normal(size=videos)
                own = random.normal(size=(2, group.max() + 1))[:, group] + random.normal(size=(2, videos))
                right = (luck + own) / 2 < ndtri(np.array([[before], [after]]))
                scores = [Score(row.mean(), videos, VideoScores("", row, row, groups)) for row in right]
                gain = paired_gain(*right, groups)
                row = []
                for low, high in (interval_of_difference(*scores), (gain.low, gain.high)):
                    row += [low <= after - before <= high, not low <= 0 <= high]
                found.append(row)
            cells = " | ".join(f"{x:.3f} {y:.3f}" for x, y in np.mean(found, 0).reshape(2, 2))
            print(f"{videos} {size} {before} {after} | {cells}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=400, help="simulated studies per row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--bootstrap", action="store_true", help="choose on bootstrap samples, for comparison"
    )
    parser.add_argument("--gains", action="store_true", help="only the gain of one model over another")
    arguments = parser.parse_args()
    if arguments.gains:
        paired_gains(arguments.studies, arguments.seed)
        return
    if arguments.bootstrap:
        with mock.patch.object(choice, "_resampling", bootstrap_samples):
            best_of_studies(arguments)
        return
    best_of_studies(arguments)
    preferred_classes(arguments.studies, arguments.seed)
    adaptive_search(arguments.studies, arguments.seed)
    one_model(arguments.studies, arguments.seed)
    over_seeds(arguments.studies, arguments.seed)


def best_of_studies(arguments):
    """Print bias, coverage and width of the intervals of the best trial by scenario."""
    print("best of a study | bias, coverage, width: Wilson (before) | with groups | corrected (after)")
    for scenario in SCENARIOS:
        rows = coverage(scenario, arguments.studies, arguments.seed)
        cells = (f"{bias:+.3f} {covered:.2f} {width:.2f}" for bias, covered, width in rows.values())
        print(f"{scenario.name:40} | " + " | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
