"""Test accuracy of V cached views per video, compared with a new view in every epoch.

EV-CLIP in the clutter of the small world, with an open start of the mask. Each cached view has the video map
of that view, and so has each new one. Sets: the eight held-out actions with 32 training videos each, and the
default 30 classes with 8. The last epoch is evaluated on the test split, 240 videos; no epoch is selected.
A seed draws the initial prompts and the order of the videos. Runs that OUT contains are not repeated. Ray is
not needed: the processes of `--jobs` share a GPU, if there is one.

Run: python benchmarks/cached_views.py [OUT.jsonl] [--jobs 1] [--seeds 2] [--banks 1,8,16,null] [--sets 8x32]
"""

import argparse
import functools
import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from evclip_ray.artifacts import provenance
from evclip_ray.data.shards import prepare as shards
from evclip_ray.data.shards.format import ShardJob
from evclip_ray.features.encode import Job, run_job
from evclip_ray.metrics.intervals import SeedMean, mean_over_seeds
from evclip_ray.metrics.mask_quality import MaskScorer
from evclip_ray.metrics.multi_view import EvaluationViews, score_views
from evclip_ray.models.frozen import device_name
from evclip_ray.training import frozen_cache
from evclip_ray.training.build import autocast_dtype, build_method, pick_device, zero_shot_of
from evclip_ray.training.datamodule import Videos, prepare
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.loop import Run
from evclip_ray.training.video_plan import VideoPlan, plan_videos

Settings = dict[str, Any]
"""Dotted path -> value."""


def _towers(encoder: str, weights: str) -> Settings:
    return {
        "backbone.name": "world-s",
        "backbone.pretrained": weights,
        "method.video_encoder.name": encoder,
        "method.video_encoder.weights": weights,
    }


SETS: dict[str, Settings] = {
    "8x32": {"data.world.held_out_only": True, "data.world.train_videos": 32, "data.world.test_videos": 30},
    "30x8": {"data.world.train_videos": 8, "data.world.test_videos": 8},
}
TOWERS: dict[str, Settings] = {
    "world": _towers("swin3d_world", "world"),
    # Video network whose pretraining saw true masks.
    "masks": _towers("swin3d_world_masks", "world"),
    # The same sizes before their training, for a test of this script.
    "random": _towers("swin3d_world", "random"),
}
BASE: Settings = {
    "data.world.domain": "clutter",
    "data.world.val_videos": 0,
    "data.selection": "last_epoch",
    # A view shifts the picture by up to 7 % and changes its brightness. "Left" is part of class names, so
    # there are no flips.
    "data.augment.crop": "random",
    "data.augment.flip": 0.0,
    "data.augment.brightness": 0.15,
    "method.name": "ev_clip",
    "method.mask.start": "open",
    # Divides the maps of 12 and 24 positions; 7 would fill them up to 14 and 28.
    "method.mask.window": 6,
    "optim.lr": 1e-3,
    "optim.batch_size": 16,
}
SCALAR_FACTOR = {"mask": 10, "context": 30, "both": 30}
"""Prompts -> factor of the learning rate of the scalars, as in the claims (docs/science)."""
BANKS: tuple[int | None, ...] = (1, 2, 4, 8, 16, 32, None)
"""Values of `data.bank`: cached views per video, None for a new view in every epoch."""
ZERO_SHOT = "zero_shot"


def experiment_of(run: Settings, arguments: argparse.Namespace) -> ExperimentConfig:
    """Return the experiment of one run."""
    varied = {"data.bank": run["bank"], "seed": run["seed"], "optim.epochs": arguments.epochs}
    prompts: Settings = {}
    if run["prompts"] != ZERO_SHOT:
        factor = SCALAR_FACTOR[run["prompts"]]
        prompts = {"method.prompts": run["prompts"], "optim.scalar_lr_factor": factor}
    return ExperimentConfig.load({}, BASE | TOWERS[arguments.towers] | SETS[run["set"]] | varied | prompts)


def list_runs(arguments: argparse.Namespace) -> Iterator[Settings]:
    """Yield the settings of each run, seed by seed, so that an interrupted comparison is a fair one."""
    for name in arguments.sets:
        yield {"set": name, "prompts": ZERO_SHOT, "bank": None, "seed": 0}
    for seed in range(arguments.seeds):
        for name in arguments.sets:
            for prompts in arguments.prompts:
                for bank in arguments.banks:
                    yield {"set": name, "prompts": prompts, "bank": bank, "seed": seed}


def prepare_here(run: Settings, arguments: argparse.Namespace) -> None:
    """Draw and decode the videos of a run, and compute the video maps of its cached views."""
    experiment, device = experiment_of(run, arguments), pick_device()
    videos = open_videos(plan_of(experiment, arguments), arguments.cache)
    with mock.patch.object(frozen_cache, "prepare_features", functools.partial(_run_jobs, device=device)):
        training = {"train": videos.sets["train"]}
        frozen_cache.prepare_cached(
            [(experiment, _with(videos, training))], gpus=float(device.type == "cuda")
        )


def plan_of(experiment: ExperimentConfig, arguments: argparse.Namespace) -> VideoPlan:
    """Draw missing videos and return the rows of the training and the test split."""
    return plan_videos(experiment, cache=arguments.cache, splits=("train", "test"))


def open_videos(plan: VideoPlan, cache: Path) -> Videos:
    """Open the videos of a plan. Missing ones are decoded in this process."""
    # The product decodes with Ray, which this comparison does not need.
    with mock.patch.object(shards, "_write_all", _write_all):
        return prepare(plan, cache=cache)


def one_run(run: Settings, arguments: argparse.Namespace) -> Settings:
    """Train one run and return its row."""
    # Processes that share a machine use one core each.
    torch.set_num_threads(1)
    experiment, device = experiment_of(run, arguments), pick_device()
    plan = plan_of(experiment, arguments)
    videos = open_videos(plan, arguments.cache)
    seconds: list[float] = []
    is_trained = run["prompts"] != ZERO_SHOT
    tested = experiment if is_trained else zero_shot_of(experiment)
    method = build_method(tested, videos.classes, device=device)
    if is_trained:
        with tempfile.TemporaryDirectory() as folder:
            training = _with(videos, {"train": videos.sets["train"]})
            trained = Run.start(experiment, training, folder=Path(folder), keeps_best=False, device=device)
            trained.fit(lambda metrics: seconds.append(metrics["seconds"]))
            # A run on cached maps has no video network, which the test videos need.
            method.load_state_dict(trained.method.state_dict())
    test = videos.sets["test"]
    masks = MaskScorer(test.shards, plan.manifest)
    scores = score_views(
        method,
        test.shards,
        test.labels,
        views=EvaluationViews(),
        device=device,
        batch_size=32,
        dtype=autocast_dtype(experiment, device),
        watch=masks,
    )
    quality = masks.result()
    return {
        **run,
        "towers": arguments.towers,
        "epochs": arguments.epochs,
        "test_top1": scores.state.top1,
        "test_videos": len(test),
        "train_videos": len(videos.sets["train"]),
        "epoch_seconds": statistics.median(seconds) if seconds else None,
        "masks": None if quality is None else quality.mean._asdict(),
        "scalars": method.scalars(),
        "device": device_name(device),
        "git": provenance()["git"],
    }


def _with(videos: Videos, sets: dict[str, Any]) -> Videos:
    """Return the videos with other sets, so that a run opens the training videos alone."""
    return Videos(sets, videos.classes, videos.features, selection=videos.selection)


def _write_all(jobs: list[ShardJob], root: Any, folder: Path, seconds: float, _: Any) -> Iterator[int]:
    writing = shards.Writing(None, root, folder, seconds, run="cached_views")
    for job in jobs:
        writing.write(job)
        yield len(job.videos)


def _run_jobs(jobs: Iterable[Job], *, device: torch.device, **_: Any) -> None:
    for job in jobs:
        run_job(job, device)


def main() -> None:
    arguments = parse()
    rows = read_rows(arguments.out)
    done = {key_of(row) for row in rows if belongs(row, arguments)}
    runs = [run for run in list_runs(arguments) if key_of(run) not in done]
    # Each process has its own CUDA context, which a forked one could not use.
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        # Once per set, with the largest bank, which contains the views of the smaller ones.
        largest = {run["set"]: run for run in sorted(runs, key=lambda run: run["bank"] or 0)}
        list(pool.map(prepare_here, largest.values(), [arguments] * len(largest)))
        for finished in as_completed([pool.submit(one_run, run, arguments) for run in runs]):
            row = finished.result()
            rows.append(row)
            print(json.dumps(row), flush=True)
            with arguments.out.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
    for name in arguments.sets:
        show(name, [row for row in rows if row["set"] == name and belongs(row, arguments)])


def read_rows(path: Path) -> list[Settings]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def belongs(row: Settings, arguments: argparse.Namespace) -> bool:
    """Return whether a row was measured with these epochs and towers."""
    return bool(row["epochs"] == arguments.epochs and row["towers"] == arguments.towers)


def key_of(run: Settings) -> tuple[Any, ...]:
    return run["set"], run["prompts"], run["bank"], run["seed"]


def show(name: str, rows: list[Settings]) -> None:
    """Print test top-1 per prompts and bank, the paired difference from new views, and mask quality."""
    zero_shot = [row["test_top1"] for row in rows if row["prompts"] == ZERO_SHOT]
    print(f"\n{name}: test top-1 after the last epoch, 95 % t intervals over seeds; zero-shot {zero_shot}")
    print(f"{'prompts':>8} {'bank':>5} {'seeds':>5} {'top-1':>26} {'minus new':>26} {'AP':>6} {'epoch s':>8}")
    trained = [row for row in rows if row["prompts"] != ZERO_SHOT]
    for prompts, bank in dict.fromkeys((row["prompts"], row["bank"]) for row in trained):
        of_prompts = [row for row in trained if row["prompts"] == prompts]
        top1 = {row["seed"]: row["test_top1"] for row in of_prompts if row["bank"] == bank}
        new = {row["seed"]: row["test_top1"] for row in of_prompts if row["bank"] is None}
        gaps = [top1[seed] - new[seed] for seed in top1 if seed in new]
        gap = shown(mean_over_seeds(gaps)) if gaps and bank is not None else ""
        of_bank = [row for row in of_prompts if row["bank"] == bank]
        seconds = statistics.median(row["epoch_seconds"] for row in of_bank)
        precisions = [row["masks"]["average_precision"] for row in of_bank if row["masks"]]
        precision = f"{statistics.fmean(precisions):.3f}" if precisions else "-"
        mean = shown(mean_over_seeds(list(top1.values())))
        columns = f"{prompts:>8} {bank or 'new':>5} {len(top1):5} {mean:>26} {gap:>26} {precision:>6}"
        print(f"{columns} {seconds:8.2f}")


def shown(mean: SeedMean) -> str:
    low, high = mean.interval or (mean.mean, mean.mean)
    return f"{mean.mean:+.3f} ({low:+.3f} to {high:+.3f})"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?", default=Path("cached_views.jsonl"))
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "cached_views")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with one run at a time")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--sets", type=_listed, default=list(SETS))
    parser.add_argument("--prompts", type=_listed, default=["mask", "both"])
    parser.add_argument(
        "--banks", type=lambda text: [json.loads(bank) for bank in _listed(text)], default=BANKS
    )
    parser.add_argument("--towers", choices=TOWERS, default="world")
    return parser.parse_args()


def _listed(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    main()
