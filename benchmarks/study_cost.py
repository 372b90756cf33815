"""What a study costs against its number of trials, beside the floor: the trainable part alone.

Studies of 1, 2, 4, 8, 16 and 32 trials, one trial at a time, each from an empty cache: it decodes, encodes
what is frozen once, and trains. EV-CLIP, both prompts; a random searcher draws the learning rate alone, so
that all trials cost the same. `--study tiny` is tiny towers, a bank of 4 views and the quickstart's videos,
on one core; `--study published` is that of sweep.py: ViT-B/32 and swin3d_t with random weights, batch 2, on
UT-Interaction, on all cores (a trial of 20 epochs takes a quarter of an hour on two cores: with fewer epochs
what is done once weighs more). The floor of n trials is n times the time of their training steps, forward
and backward, with every batch already in memory; it is the median of epochs right before and after each
study, as the machine's speed changes. Ray's start and the making of the toy videos, which a person has,
are left out.

Wanted: a straight line, and from 8 trials on at most 1.25 of the floor.

    python benchmarks/study_cost.py [--trials 1 2 4 8 16 32] [--epochs 20] [--out FOLDER]
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
from evclip_ray.data.synthetic import write_synthetic
from evclip_ray.training.datamodule import plan_videos, prepare
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import prepare_cached
from evclip_ray.training.loop import Run
from evclip_ray.tuning.search_space import SearchSpace, find_space, read_space
from evclip_ray.tuning.tuner import StudyRun

WANTED = 1.25
UT_INTERACTION = Path(__file__).resolve().parents[2] / "shared" / "data" / "ut_interaction_set1"


class Study(NamedTuple):
    """What one study took: seconds by part, and the seconds that the steps of one trial take at least."""

    trials: int
    parts: dict[str, float]
    floor_of_a_trial: float

    @property
    def seconds(self) -> float:
        """Of the whole study."""
        return sum(self.parts.values())

    @property
    def floor(self) -> float:
        """Seconds that the steps of all trials take at least."""
        return self.trials * self.floor_of_a_trial

    @property
    def of_floor(self) -> float:
        """The study against its floor."""
        return self.seconds / self.floor

    def __str__(self) -> str:
        floor = f"floor {self.floor:8.1f} s: {self.of_floor:.2f} of it"
        return f"{self.trials:>4} trials {self.seconds:8.1f} s, {floor}"


TINY: dict[str, Any] = {
    "data.synthetic": None, "data.bank": 4,
    "method.prompts": "both", "method.mask.depth": 1, "method.context.scale_init": 0.5,
}  # fmt: skip
PUBLISHED = TINY | {
    "data.bank": 1, "data.root": str(UT_INTERACTION),
    "data.manifest": str(UT_INTERACTION / "manifest.csv"), "view.height": 256, "view.width": 256,
    "backbone.name": "ViT-B-32", "method.video_encoder.name": "swin3d_t",
    "method.normalization": "imagenet", "optim.batch_size": 2, "optim.eval_batch_size": 2,
}  # fmt: skip


def space_of(trials: int, settings: Mapping[str, Any], cpus: int) -> SearchSpace:
    study = {"trials": trials, "scheduler": "none", "sampler": "random", "cpus": cpus}
    return read_space(find_space("quickstart"), settings, study=study)


def study_parts(space: SearchSpace, machines: Any) -> dict[str, float]:
    """Wall seconds of a study from an empty cache, by what they went into."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = StudyRun(space, Path(folder) / "study", cache=Path(folder) / "cache")
        plan = run.plan(machines)
        run.claim()
        run.prepare()
        prepared = time.perf_counter()
        told: list[float] = []
        outcome = run.run(plan, lambda kind, trial, metrics: told.append(time.perf_counter()))
        ended = time.perf_counter()
        assert len(outcome.rows) == space.study.trials
        assert all(row["state"] == "complete" for row in outcome.rows)
        histories = (run.folder.trial(row["trial"]) / "history.jsonl" for row in outcome.rows)
        epochs = [[json.loads(line) for line in file.read_text().splitlines()] for file in histories]
    steps = sum(epoch["train_seconds"] for trial in epochs for epoch in trial)
    whole = sum(epoch["seconds"] for trial in epochs for epoch in trial)
    first = epochs[0][0]["seconds"]
    return {
        "videos and features": prepared - began,
        "first trial's start": told[0] - prepared - first,
        "training steps": steps,
        "validation, checkpoints, board": whole - steps,
        "between trials and epochs": ended - told[0] + first - whole,
    }


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
            manifest = write_synthetic(Path(folder) / "videos", videos_per_class=60)
            settings = TINY | {"data.manifest": str(manifest)}
        settings = settings | {"optim.epochs": arguments.epochs}
        space = space_of(1, settings, cpus)
        floor = floor_of(space.experiment({"optim.lr": 0.01}), Path(folder))
        around = [floor.epoch_seconds() for _ in range(3)]
        for trials in arguments.trials:
            parts = study_parts(space_of(trials, settings, cpus), machines)
            after = [floor.epoch_seconds() for _ in range(3)]
            a_trial = statistics.median(around + after) * arguments.epochs
            found.append(Study(trials, parts, a_trial))
            around = after
            print(found[-1], flush=True)
    show(found)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        record = {"studies": [study._asdict() for study in found], **provenance()}
        (arguments.out / "study_cost.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        seconds = {study.trials: study.seconds for study in found}
        draw(seconds, {study.trials: study.floor for study in found}, arguments.out / "study_cost.png")


def show(found: list[Study]) -> None:
    trials = np.array([study.trials for study in found])
    seconds = np.array([study.seconds for study in found])
    if len(found) > 1:
        slope, start = np.polyfit(trials, seconds, 1)
        a_trial = statistics.median(study.floor_of_a_trial for study in found)
        left = seconds - (slope * trials + start)
        print(
            f"\nline: {start:.1f} s + {slope:.2f} s a trial (floor {a_trial:.2f} s a trial: "
            f"{slope / a_trial:.2f} of it)\n"
            f"farthest point {np.abs(left).max() / seconds.max():.1%} of the longest study off the line"
        )
    for study in found:
        if study.trials >= 8:
            print(
                f"{study.trials} trials: {study.of_floor:.2f} of the floor, wanted at most {WANTED}: "
                f"{study.of_floor <= WANTED}"
            )
    print(f"\nwhere the {found[-1].seconds:.0f} s of {found[-1].trials} trials go:")
    for part, taken in found[-1].parts.items():
        print(f"{part:<32} {taken:8.1f} s {taken / found[-1].seconds:7.1%}")


def draw(taken: dict[int, float], floor: dict[int, float], file: Path) -> None:
    """Seconds of studies, and of their floors, against their trials."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(*zip(*taken.items(), strict=True), "o-", color="#0072B2", label="study, from an empty cache")
    axes.plot(*zip(*floor.items(), strict=True), "s--", color="#D55E00", label="floor: training steps alone")
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
