"""Time and memory of a trial that trains on cached features only, on a data set of HMDB-51's size.

EV-CLIP's context prompt with ViT-B/16 and swin3d_t: 816 training videos (51 classes, 16 shots), 204
validation videos, 400 epochs, batch 64. The cost of a trial does not depend on the feature values. The script
therefore makes small videos and writes random features of the real sizes; class text is encoded.

Expectation: a trial takes seconds, CLIP is not in memory, and a step does not wait for its batch of 64.
The last also holds for a mask prompt, which reads pixels (measured with tiny towers and their short steps).

Run: python benchmarks/context_only.py [--epochs 400] [--trials 3]
"""

import argparse
import csv
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from evclip_ray.artifacts import write_ledger
from evclip_ray.cluster import connect
from evclip_ray.features.cached_networks import STAGE, network_attributes
from evclip_ray.features.encode import Job, ViewJob, load_network, run_job
from evclip_ray.features.format import feature_file, write_features
from evclip_ray.models.frozen import FrozenNetwork
from evclip_ray.training.build import zero_shot_of
from evclip_ray.training.datamodule import Videos, prepare
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import _jobs, prepare_cached
from evclip_ray.training.loop import Run
from evclip_ray.training.video_plan import plan_videos
from evclip_ray.world.data_set import write_world
from evclip_ray.world.settings import WorldConfig

CLASSES, TRAIN, VAL = 51, 16, 4
CPU = torch.device("cpu")


def experiment_of(manifest: Path, epochs: int, seed: int, *, prompts: str = "context") -> ExperimentConfig:
    backbone, encoder = ("ViT-B-16", "swin3d_t") if prompts == "context" else ("debug", "swin3d_debug")
    return ExperimentConfig.load(
        {
            "data": {"manifest": str(manifest), "bank": 1},
            "view": {"num_frames": 8, "height": 64, "width": 64},
            "backbone": {"name": backbone, "pretrained": "random"},
            "method": {
                "name": "ev_clip",
                "prompts": prompts,
                "video_encoder": {"name": encoder, "weights": "random"},
            },
            "optim": {"batch_size": 64, "epochs": epochs},
            "seed": seed,
        }
    )


def write_videos(folder: Path) -> Path:
    """Write small videos of 51 classes and return the path of their manifest."""
    # 30 classes of 34 videos, which get the labels of 51 classes.
    made = write_world(
        folder, WorldConfig(train_videos=33, val_videos=0, test_videos=1, size=64, num_frames=8)
    )
    with made.open(encoding="utf-8", newline="") as stream:
        paths = [row["path"] for row in csv.DictReader(stream)]
    manifest = folder / "classes.csv"
    with manifest.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "split"])
        for number, path in enumerate(paths):
            shot, label = divmod(number, CLASSES)
            writer.writerow([path, f"class number {label}", "train" if shot < TRAIN else "val"])
    return manifest


def write_random(experiment: ExperimentConfig, videos: Videos) -> None:
    """Write the feature files of a study: random values for views, encoded class texts."""
    jobs: dict[str, Job] = {}
    for asked in (experiment, zero_shot_of(experiment)):
        jobs |= {job.key: job for job in _jobs(asked, videos, videos.sets, CPU)}
    generator = torch.Generator().manual_seed(0)
    for job in jobs.values():
        if not isinstance(job, ViewJob):
            run_job(job, CPU)
            continue
        network = load_network(job.spec, CPU)
        path = feature_file(job.store, job.spec.key, job.key)
        write_ledger(path.parent, STAGE, inputs=job.spec.inputs, network=network_attributes(network))
        shards = next(found.shards for found in videos.sets.values() if job.file in found.shards.files())
        count = len(shards.files()[job.file])
        size = (8, 512) if job.spec.kind == "frame_features" else (768, 1, 1, 1)
        write_features(path, torch.randn(count, *size, generator=generator), job.key)


def frozen_parameters(run: Run) -> int:
    """Return the number of parameters of the frozen networks that a trial has in memory."""
    frozen = run.method.frozen
    networks: list[FrozenNetwork | None] = [frozen.clip, frozen.video_encoder]
    return sum(p.numel() for network in networks if network for p in network.parameters())


class Step(NamedTuple):
    """Milliseconds of a step: reading its batch, cropping on the device, and the rest."""

    waited: float
    cropped: float
    worked: float


def measured_steps(run: Run, rounds: int) -> list[Step]:
    cropping = [0.0]
    cut = run.batches["train"]._cut

    def timed_cut(*arguments: Any) -> torch.Tensor:
        began = time.perf_counter()
        views = cut(*arguments)
        cropping[0] += time.perf_counter() - began
        return views

    run.batches["train"]._cut = timed_cut  # type: ignore[assignment, method-assign]
    groups = np.array_split(np.arange(len(run.videos.sets["train"])), run.steps_per_epoch)
    generator = torch.Generator().manual_seed(0)
    steps = []
    for _ in range(rounds):
        stream = run.batches["train"](groups)
        for group in groups:
            began, cropping[0] = time.perf_counter(), 0.0
            batch = next(stream)
            got = time.perf_counter()
            run.step(batch, rate=1e-4, num_videos=len(group), generator=generator)
            seconds = (got - began - cropping[0], cropping[0], time.perf_counter() - got)
            steps.append(Step(*(1e3 * taken for taken in seconds)))
    return steps


def print_waiting(title: str, run: Run, rounds: int) -> None:
    waited, cropped, worked = map(statistics.median, zip(*measured_steps(run, rounds), strict=True))
    print(
        f"{title}: a step of 64 waits {waited:.3f} ms to have its batch read, crops for {cropped:.2f} ms "
        f"and works {worked:.2f} ms",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--trials", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, connect():
        folder = Path(name)
        manifest = write_videos(folder / "videos")
        experiment = experiment_of(manifest, arguments.epochs, 0)
        videos = prepare(plan_videos(experiment, cache=folder / "cache"), cache=folder / "cache")
        counts = ", ".join(f"{len(found)} {split}" for split, found in videos.sets.items())
        print(f"{counts}; {len(videos.classes)} classes; {torch.get_num_threads()} threads")
        write_random(experiment, videos)
        for trial in range(arguments.trials):
            began = time.perf_counter()
            experiment = experiment_of(manifest, arguments.epochs, trial)
            run_ = Run.start(experiment, videos, folder=folder / str(trial), zero_shot=folder / "zero.json")
            built = time.perf_counter() - began
            run_.fit(lambda metrics: None)
            whole = time.perf_counter() - began
            history = run_.history
            steps = sum(epoch["train_seconds"] for epoch in history)
            rest = sum(epoch["seconds"] for epoch in history) - steps
            print(
                f"trial {trial}: {whole:.1f} s: {built:.2f} to build it, {steps:.1f} in "
                f"{arguments.epochs} x {run_.steps_per_epoch} steps, {rest:.1f} in validation, checkpoints "
                f"and tables; frozen parameters in memory: {frozen_parameters(run_):,}",
                flush=True,
            )
        print_waiting("cached features only", run_, 20)
        experiment = experiment_of(manifest, 1, 0, prompts="both")
        prepare_cached([(experiment, videos)], gpus=0)
        print_waiting(
            "pixels and cached maps, tiny towers", Run.start(experiment, videos, folder=folder / "m"), 2
        )


if __name__ == "__main__":
    main()
