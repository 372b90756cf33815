"""Accuracy of V cached augmented views per video, compared with a fresh view in every epoch.

Method: EV-CLIP with both prompts, on tiny towers with random weights, on the quickstart's videos and on
UT-Interaction. V is 1, 4, 16 and "fresh". A seed draws the initial prompts, the order of the videos and the
validation split. It is the same for every V, so the differences from fresh views are paired. The result is
validation top-1 after the last epoch. No epoch is selected and no test split is read.

Run: python benchmarks/cached_views.py [--seeds 8] [--data FOLDER] [--json FILE]
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
NUM_VIEWS: tuple[int | None, ...] = (1, 4, 16, None)
"""Values of `data.bank`: cached views per video, None for a fresh view in every epoch."""
# Close to the best points of earlier searches in these spaces with fresh views.
POINT = {"optim.lr": 0.02, "method.prompts": "both", "method.mask.depth": 1, "method.context.scale_init": 0.5}


def experiments(data: Path | None) -> dict[str, dict[str, Any]]:
    """Return the settings (dotted path -> value) of each data set."""
    spaces = HERE.parents[1] / "search_spaces"
    by_name = {"quickstart": read_yaml(spaces / "quickstart.yaml")["fixed"] | POINT}
    if data is not None:
        manifest = {"data.manifest": str(data / "manifest.csv"), "data.root": str(data)}
        by_name["UT-Interaction"] = read_yaml(spaces / "debug.yaml")["fixed"] | manifest | POINT
    return by_name


def one_run(settings: dict[str, Any], bank: int | None, seed: int, folder: Path) -> dict[str, Any]:
    """Train one run. Return the metrics of its last epoch and the median time of its epochs."""
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
    parser.add_argument("--json", type=Path, default=None, help="file for the results of every run")
    arguments = parser.parse_args()
    data = arguments.data.resolve() if arguments.data.is_dir() else None
    if data is None:
        print(f"{arguments.data} does not exist: only the quickstart's videos are used")
    torch.set_num_threads(1)
    rows = []
    with connect():
        for name, settings in experiments(data).items():
            with tempfile.TemporaryDirectory() as folder:
                rows += compare(name, settings, arguments.seeds, Path(folder))
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, **provenance()}, indent=1), encoding="utf-8")


def compare(name: str, settings: dict[str, Any], seeds: int, folder: Path) -> list[dict[str, Any]]:
    # Variants alternate within a seed, so changes of the machine's speed affect all of them.
    results_by_bank: dict[int | None, list[dict[str, Any]]] = {bank: [] for bank in NUM_VIEWS}
    for seed in range(seeds):
        for bank in NUM_VIEWS:
            results_by_bank[bank].append(one_run(settings, bank, seed, folder))
    videos = sum(metrics["val_videos"] for metrics in results_by_bank[None])
    print(
        f"\n{name}: {seeds} seeds, {videos} validation videos, top-1 after the last epoch, 95 % t intervals"
    )
    print(f"{'bank':>6} {'top-1':>26} {'minus fresh':>26} {'epoch s':>8}")
    fresh = [metrics["val_top1"] for metrics in results_by_bank[None]]
    for bank, results in results_by_bank.items():
        top1 = [metrics["val_top1"] for metrics in results]
        gap = mean_over_seeds([a - b for a, b in zip(top1, fresh, strict=True)])
        seconds = statistics.median(metrics["epoch_seconds"] for metrics in results)
        difference = "" if bank is None else shown(gap)
        print(
            f"{bank or 'fresh':>6} {shown(mean_over_seeds(top1)):>26} {difference:>26} {seconds:8.3f}",
            flush=True,
        )
    columns = ("val_top1", "val_loss", "epoch_seconds")
    return [
        {"set": name, "bank": bank, "seed": seed} | {key: metrics[key] for key in columns}
        for bank, results in results_by_bank.items()
        for seed, metrics in enumerate(results)
    ]


def shown(mean: SeedMean) -> str:
    low, high = mean.interval or (mean.mean, mean.mean)
    return f"{mean.mean:+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main()
