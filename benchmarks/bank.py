"""What a bank of V augmented views costs in accuracy, against fresh augmentation in every epoch.

EV-CLIP, both prompts, on tiny towers with random weights, on the quickstart's videos and on those of
UT-Interaction; V in 1, 4, 16 and fresh views. A seed draws the initial prompts, the order of the videos
and which of them validate, the same for every V, so that the differences from fresh views are paired.
The number is validation top-1 after the last epoch: no epoch is chosen, and nothing reads a test split.

    python benchmarks/bank.py [--seeds 8] [--data FOLDER] [--json FILE]
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from evclip_ray.artifacts import provenance
from evclip_ray.cluster import connect
from evclip_ray.config import read_yaml
from evclip_ray.metrics.intervals import SeedMean, mean_over_seeds
from evclip_ray.training.datamodule import Videos, plan_videos, prepare
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import prepare_cached
from evclip_ray.training.loop import Run

HERE = Path(__file__).resolve()
UT_INTERACTION = HERE.parents[2] / "shared" / "data" / "ut_interaction_set1"
BANKS: tuple[int | None, ...] = (1, 4, 16, None)
# Near the best points of searches in these spaces with fresh views.
POINT = {"optim.lr": 0.02, "method.prompts": "both", "method.mask.depth": 1, "method.context.scale_init": 0.5}


def experiments(data: Path | None) -> dict[str, dict[str, Any]]:
    """The settings of each set of videos: dotted path to value."""
    spaces = HERE.parents[1] / "search_spaces"
    found = {"quickstart": read_yaml(spaces / "quickstart.yaml")["fixed"] | POINT}
    if data is not None:
        manifest = {"data.manifest": str(data / "manifest.csv"), "data.root": str(data)}
        found["UT-Interaction"] = read_yaml(spaces / "debug.yaml")["fixed"] | manifest | POINT
    return found


def one_run(settings: dict[str, Any], bank: int | None, seed: int, folder: Path) -> dict[str, Any]:
    """The last epoch's metrics of a run, and the median seconds of its epochs."""
    varied = {"data.bank": bank, "seed": seed, "data.split_seed": seed}
    experiment = ExperimentConfig.load({}, settings | varied)
    cache = folder / "cache"
    videos: Videos = prepare(plan_videos(experiment, cache=cache), cache=cache)
    prepare_cached([(experiment, videos)], gpus=0)
    run = folder / f"{bank}-{seed}"
    seconds: list[float] = []
    last = Run.start(experiment, videos, folder=run).fit(lambda metrics: seconds.append(metrics["seconds"]))
    return {**last, "epoch_seconds": statistics.median(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=UT_INTERACTION)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--json", type=Path, default=None, help="where every run's numbers go")
    arguments = parser.parse_args()
    data = arguments.data.resolve() if arguments.data.is_dir() else None
    if data is None:
        print(f"{arguments.data} is absent: the quickstart's videos alone")
    torch.set_num_threads(1)
    rows = []
    with connect():
        for name, settings in experiments(data).items():
            with tempfile.TemporaryDirectory() as folder:
                rows += compare(name, settings, arguments.seeds, Path(folder))
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, **provenance()}, indent=1), encoding="utf-8")


def compare(name: str, settings: dict[str, Any], seeds: int, folder: Path) -> list[dict[str, Any]]:
    # Banks take turns within a seed: they share the machine's moods.
    taken: dict[int | None, list[dict[str, Any]]] = {bank: [] for bank in BANKS}
    for seed in range(seeds):
        for bank in BANKS:
            taken[bank].append(one_run(settings, bank, seed, folder))
    videos = sum(metrics["val_videos"] for metrics in taken[None])
    print(
        f"\n{name}: {seeds} seeds, {videos} validation readings, top-1 after the last epoch, 95 % t intervals"
    )
    print(f"{'bank':>6} {'top-1':>26} {'minus fresh':>26} {'epoch s':>8}")
    fresh = [metrics["val_top1"] for metrics in taken[None]]
    for bank, found in taken.items():
        top1 = [metrics["val_top1"] for metrics in found]
        gap = mean_over_seeds([a - b for a, b in zip(top1, fresh, strict=True)])
        seconds = statistics.median(metrics["epoch_seconds"] for metrics in found)
        apart = "" if bank is None else shown(gap)
        print(f"{bank or 'fresh':>6} {shown(mean_over_seeds(top1)):>26} {apart:>26} {seconds:8.3f}", flush=True)
    kept = ("val_top1", "val_loss", "epoch_seconds")
    return [
        {"set": name, "bank": bank, "seed": seed} | {key: metrics[key] for key in kept}
        for bank, found in taken.items()
        for seed, metrics in enumerate(found)
    ]


def shown(mean: SeedMean) -> str:
    low, high = mean.interval or (mean.mean, mean.mean)
    return f"{mean.mean:+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main()
