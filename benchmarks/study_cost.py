"""What a study costs against its number of trials, beside the floor: the trainable part alone.

Studies of 1, 2, 4, 8, 16 and 32 trials, one trial at a time on one core, each from an empty cache: it
decodes, encodes what is frozen once, and trains. EV-CLIP, both prompts, tiny towers, a bank of 4 views, on
the quickstart's videos; a random searcher draws the learning rate alone, so that all trials cost the same.
The floor of n trials is n times the time of their training steps, forward and backward, with every batch
already in memory; it is measured before each study, and the median counts. Ray's start is left out.

Wanted: a straight line, and from 8 trials on at most 1.25 of the floor.

    python benchmarks/study_cost.py [--trials 1 2 4 8 16 32] [--epochs 20] [--out FOLDER]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from evclip_ray.artifacts import provenance
from evclip_ray.cluster import connect
from evclip_ray.models.asks import converse
from evclip_ray.training.cached import prepare_cached
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.loop import Run
from evclip_ray.training.videos import plan_videos, prepare
from evclip_ray.tuning.search_space import SearchSpace, find_space, read_space
from evclip_ray.tuning.tuner import StudyRun

WANTED = 1.25


def space_of(trials: int, epochs: int) -> SearchSpace:
    settings = {
        "data.bank": 4, "optim.epochs": epochs, "method.prompts": "both", "method.mask.depth": 1,
        "method.context.scale_init": 0.5,
    }  # fmt: skip
    study = {"trials": trials, "scheduler": "none", "sampler": "random"}
    return read_space(find_space("quickstart"), settings, study=study)


def study_seconds(trials: int, epochs: int, machines: Any) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = StudyRun(space_of(trials, epochs), Path(folder) / "study", cache=Path(folder) / "cache")
        plan = run.plan(machines)
        run.claim()
        run.prepare()
        outcome = run.run(plan, lambda kind, trial, metrics: None)
        seconds = time.perf_counter() - began
        assert len(outcome.rows) == trials
        assert all(row["state"] == "complete" for row in outcome.rows)
    return seconds


def floor_of(experiment: ExperimentConfig, folder: Path) -> "Floor":
    videos = prepare(plan_videos(experiment, cache=folder), cache=folder)
    prepare_cached([(experiment, videos)], gpus=0)
    return Floor(Run.start(experiment, videos, folder=folder / "run"))


class Floor:
    """The training steps of one trial on batches that are in memory."""

    def __init__(self, run: Run) -> None:
        self.run = run
        groups = np.array_split(np.arange(len(run.videos.sets["train"])), run.steps_per_epoch)
        self.batches = list(zip(groups, run.batches["train"](groups), strict=True))

    def epoch_seconds(self) -> float:
        """Seconds of an epoch's steps."""
        generator = torch.Generator().manual_seed(0)
        began = time.perf_counter()
        for group, batch in self.batches:
            step = self.run._step(batch, rate=1e-3, num_videos=len(group), generator=generator)
            converse(step, self.run.answer)
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=None, help="folder of study_cost.json and .png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    taken, epochs = {}, []
    with tempfile.TemporaryDirectory() as folder, connect(num_cpus=1) as machines:
        floor = floor_of(space_of(1, arguments.epochs).experiment({"optim.lr": 0.01}), Path(folder))
        for trials in arguments.trials:
            epochs.append(min(floor.epoch_seconds() for _ in range(3)))
            taken[trials] = study_seconds(trials, arguments.epochs, machines)
            print(
                f"{trials:>4} trials {taken[trials]:8.1f} s, an epoch's steps {epochs[-1]:.3f} s", flush=True
            )
    a_trial = statistics.median(epochs) * arguments.epochs
    show(taken, a_trial)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        record = {"seconds": taken, "floor_of_a_trial": a_trial, "epochs": epochs, **provenance()}
        (arguments.out / "study_cost.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        draw(taken, a_trial, arguments.out / "study_cost.png")


def show(taken: dict[int, float], a_trial: float) -> None:
    trials = np.array(list(taken))
    seconds = np.array(list(taken.values()))
    slope, start = np.polyfit(trials, seconds, 1) if len(trials) > 1 else (np.nan, np.nan)
    print(f"\n{'trials':>6} {'study s':>9} {'floor s':>9} {'of floor':>9}")
    for n, total in taken.items():
        print(f"{n:>6} {total:9.1f} {n * a_trial:9.1f} {total / (n * a_trial):9.2f}")
    left = seconds - (slope * trials + start)
    print(
        f"\nline: {start:.1f} s + {slope:.2f} s a trial (floor {a_trial:.2f} s a trial: "
        f"{slope / a_trial:.2f} of it)\n"
        f"farthest point {np.abs(left).max() / seconds.max():.1%} of the longest study off the line"
    )
    for n, total in taken.items():
        if n >= 8:
            reached = total / (n * a_trial)
            print(f"{n} trials: {reached:.2f} of the floor, wanted at most {WANTED}: {reached <= WANTED}")


def draw(taken: dict[int, float], a_trial: float, file: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    trials = np.array(list(taken))
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(trials, list(taken.values()), "o-", color="#0072B2", label="study, from an empty cache")
    axes.plot(trials, trials * a_trial, "--", color="#D55E00", label="floor: training steps alone")
    axes.set(
        xlabel="trials", ylabel="wall time (s)", title="Cost of a study against its trials", ylim=(0, None)
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    main()
