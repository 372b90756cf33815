"""Time of a study by its number of trials, relative to the time of its training steps alone.

Studies of 1, 2, 4, 8, 16 and 32 trials run one trial at a time, each from an empty cache: decode, encode
frozen features, train. EV-CLIP uses both prompts. A random searcher draws only the learning rate, so all
trials cost the same.

- `--study tiny`: tiny towers, 4 cached views per video, 216 videos of the small world, one core.
- `--study published`: the setup of sweep.py (ViT-B/32 and swin3d_t with random weights, batch 2,
  UT-Interaction) on all cores. A trial of 20 epochs takes a quarter of an hour on two cores. With fewer
  epochs the work that is done once weighs more.

The lower bound of n trials is n times the time of their training steps, with every batch already in memory.
It is the median of epochs measured right before and after each study, because the machine's speed varies.
The start of Ray and the drawing of the videos are excluded.

Expectation: time is linear in the number of trials, and at most 1.25 times the lower bound from 8 trials on.

Run: python benchmarks/study_cost.py [--trials 1 2 4 8 16 32] [--epochs 20] [--out FOLDER]
     python benchmarks/study_cost.py --study published --trials 8 --epochs 4
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch

from evclip_ray.artifacts import provenance
from evclip_ray.cluster import connect
from evclip_ray.training.datamodule import prepare
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import prepare_cached
from evclip_ray.training.loop import Run
from evclip_ray.training.video_plan import plan_videos
from evclip_ray.tuning.search_space import SearchSpace, read_space
from evclip_ray.tuning.space_files import find_space
from evclip_ray.tuning.tuner import StudyRun
from evclip_ray.world.data_set import write_world
from evclip_ray.world.settings import WorldConfig

WANTED = 1.25
UT_INTERACTION = Path(__file__).resolve().parents[2] / "shared" / "data" / "ut_interaction_set1"


class Study(NamedTuple):
    """Time of one study by part, and the lower bound of the time of one trial."""

    trials: int
    parts: dict[str, float]
    bound_per_trial: float

    @property
    def seconds(self) -> float:
        """Seconds of the whole study."""
        return sum(self.parts.values())

    @property
    def bound(self) -> float:
        """Lower bound of the seconds: the training steps of all trials."""
        return self.trials * self.bound_per_trial

    @property
    def ratio(self) -> float:
        """Time of the study relative to its lower bound."""
        return self.seconds / self.bound

    def __str__(self) -> str:
        bound = f"lower bound {self.bound:8.1f} s: ratio {self.ratio:.2f}"
        return f"{self.trials:>4} trials {self.seconds:8.1f} s, {bound}"


VIDEOS = WorldConfig(classes=6, train_videos=36, val_videos=12, test_videos=12, size=96)
TINY: dict[str, Any] = {
    "optim.batch_size": 16,
    "data.bank": 4,
    "method.prompts": "both",
    "method.mask.depth": 1,
    "method.context.scale_init": 0.5,
}
PUBLISHED = TINY | {
    "data.bank": 1,
    "data.root": str(UT_INTERACTION),
    "data.manifest": str(UT_INTERACTION / "manifest.csv"),
    "view.height": 256,
    "view.width": 256,
    "backbone.name": "ViT-B-32",
    "method.video_encoder.name": "swin3d_t",
    "method.normalization": "imagenet",
    "optim.batch_size": 2,
    "optim.eval_batch_size": 2,
}


def space_of(trials: int, settings: Mapping[str, Any], cpus: int) -> SearchSpace:
    study = {"trials": trials, "scheduler": "none", "sampler": "random", "cpus": cpus}
    return read_space(find_space("debug"), settings, study=study)


def study_parts(space: SearchSpace, machines: Any) -> dict[str, float]:
    """Run a study from an empty cache and return its wall seconds by part."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = StudyRun(space, Path(folder) / "study", cache=Path(folder) / "cache")
        plan = run.plan(machines)
        run.claim()
        run.prepare()
        prepared = time.perf_counter()
        event_times: list[float] = []
        outcome = run.run(plan, lambda kind, record: event_times.append(time.perf_counter()))
        ended = time.perf_counter()
        assert len(outcome.rows) == space.study.trials
        assert all(row.state == "complete" for row in outcome.rows)
        histories = (run.folder.trial(row.trial) / "history.jsonl" for row in outcome.rows)
        epochs = [[json.loads(line) for line in file.read_text().splitlines()] for file in histories]
    steps = sum(epoch["train_seconds"] for trial in epochs for epoch in trial)
    whole = sum(epoch["seconds"] for trial in epochs for epoch in trial)
    first = epochs[0][0]["seconds"]
    return {
        "videos and features": prepared - began,
        "first trial's start": event_times[0] - prepared - first,
        "training steps": steps,
        "validation, checkpoints, board": whole - steps,
        "between trials and epochs": ended - event_times[0] + first - whole,
    }


def prepared_steps(experiment: ExperimentConfig, folder: Path) -> "PreparedSteps":
    videos = prepare(plan_videos(experiment, cache=folder), cache=folder)
    prepare_cached([(experiment, videos)], gpus=0)
    return PreparedSteps(Run.start(experiment, videos, folder=folder / "run"))


class PreparedSteps:
    """Training steps of one trial on batches that are already in memory."""

    def __init__(self, run: Run) -> None:
        self.run = run
        groups = np.array_split(np.arange(len(run.videos.sets["train"])), run.steps_per_epoch)
        self.batches = list(zip(groups, run.batches["train"](groups), strict=True))

    def epoch_seconds(self) -> float:
        """Run the steps of one epoch and return their seconds."""
        generator = torch.Generator().manual_seed(0)
        began = time.perf_counter()
        for group, batch in self.batches:
            self.run.step(batch, rate=1e-3, num_videos=len(group), generator=generator)
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", choices=["tiny", "published"], default="tiny")
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=None, help="folder of study_cost.json and .png")
    arguments = parser.parse_args()
    cpus = 1 if arguments.study == "tiny" else os.cpu_count() or 1
    torch.set_num_threads(cpus)
    found: list[Study] = []
    with tempfile.TemporaryDirectory() as folder, connect(num_cpus=cpus) as machines:
        settings = PUBLISHED
        if arguments.study == "tiny":
            manifest = write_world(Path(folder) / "videos", VIDEOS)
            settings = TINY | {"data.manifest": str(manifest)}
        settings = settings | {"optim.epochs": arguments.epochs}
        space = space_of(1, settings, cpus)
        steps = prepared_steps(space.experiment({"optim.lr": 0.01}), Path(folder))
        around = [steps.epoch_seconds() for _ in range(3)]
        for trials in arguments.trials:
            parts = study_parts(space_of(trials, settings, cpus), machines)
            after = [steps.epoch_seconds() for _ in range(3)]
            a_trial = statistics.median(around + after) * arguments.epochs
            found.append(Study(trials, parts, a_trial))
            around = after
            print(found[-1], flush=True)
    show(found)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        record = {
            "studies": [
                # The key of earlier records.
                {"trials": s.trials, "parts": s.parts, "floor_of_a_trial": s.bound_per_trial}
                for s in found
            ],
            **provenance(),
        }
        (arguments.out / "study_cost.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        seconds = {study.trials: study.seconds for study in found}
        draw(seconds, {study.trials: study.bound for study in found}, arguments.out / "study_cost.png")


def show(found: list[Study]) -> None:
    trials = np.array([study.trials for study in found])
    seconds = np.array([study.seconds for study in found])
    if len(found) > 1:
        slope, start = np.polyfit(trials, seconds, 1)
        a_trial = statistics.median(study.bound_per_trial for study in found)
        residuals = seconds - (slope * trials + start)
        print(
            f"\nline: {start:.1f} s + {slope:.2f} s per trial (lower bound {a_trial:.2f} s per trial: "
            f"ratio {slope / a_trial:.2f})\n"
            f"farthest point {np.abs(residuals).max() / seconds.max():.1%} of the longest study off the line"
        )
    for study in found:
        if study.trials >= 8:
            print(
                f"{study.trials} trials: {study.ratio:.2f} of the lower bound, expected at most {WANTED}: "
                f"{study.ratio <= WANTED}"
            )
    print(f"\nwhere the {found[-1].seconds:.0f} s of {found[-1].trials} trials go:")
    for part, taken in found[-1].parts.items():
        print(f"{part:<32} {taken:8.1f} s {taken / found[-1].seconds:7.1%}")


def draw(taken: dict[int, float], bound: dict[int, float], file: Path) -> None:
    """Plot the seconds of studies and their lower bounds by the number of trials."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(*zip(*taken.items(), strict=True), "o-", color="#0072B2", label="study, from an empty cache")
    axes.plot(
        *zip(*bound.items(), strict=True), "s--", color="#D55E00", label="lower bound: training steps only"
    )
    axes.set(
        xlabel="trials",
        ylabel="wall time (s)",
        title="Cost of a study against its trials",
        xlim=(0, None),
        ylim=(0, None),
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    main()
