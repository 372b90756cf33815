"""What it costs to train k trials in a pack, against one after the other, and against k processes at once.

EV-CLIP with mask and context, random weights, on small videos that it makes; the frozen video network's
maps are read from disk. A round is an epoch of each of k trials, with its validation and checkpoints; the
three ways take their rounds in turn, and ratios are taken within a round. On a GPU the three ways share
the card; wanted there: the pack at least 2.5 times as fast as 4 processes at batch 2. On a CPU: no slower
than one after the other. The share of the matrix rate is the work of the networks (2 x MAC) in a round,
over its time, over the rate of one large matrix product measured here in the same precision.

    python benchmarks/packing.py --backbone ViT-B-32 --encoder swin3d_t --k 1 2 4
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from evclip_ray.cluster import connect
from evclip_ray.training.build import autocast_dtype, pick_device
from evclip_ray.training.cached import prepare_cached
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.loop import Run
from evclip_ray.training.pack import Pack
from evclip_ray.training.pauses import Epoch, Pausing
from evclip_ray.training.videos import Videos, plan_videos, prepare

ALONE, PACKED, PROCESSES = "one after the other", "pack", "processes at once"


def experiment_of(arguments: argparse.Namespace, *, seed: int) -> ExperimentConfig:
    """A trial; members differ in seed and learning rate, as those of a study do."""
    synthetic = {"videos_per_class": arguments.videos_per_class, "size": 128, "num_frames": 24}
    tree = {
        "data": {"synthetic": synthetic, "bank": 1},
        "view": {"num_frames": 8},
        "backbone": {"name": arguments.backbone, "pretrained": "random"},
        "method": {"video_encoder": {"name": arguments.encoder, "weights": "random"}},
        "optim": {"epochs": 10_000, "batch_size": arguments.batch, "lr": 1e-4 * (1 + seed)},
        "seed": seed,
        "precision": arguments.precision,
    }
    return ExperimentConfig.load(tree)


def start(arguments: argparse.Namespace, videos: Path, folder: Path, seed: int) -> Run:
    zero_shot = folder / "zero_shot.json"
    experiment = experiment_of(arguments, seed=seed)
    return Run.start(experiment, Videos.load(videos), folder=folder / str(seed), zero_shot=zero_shot)


def epoch_alone(run: Run, steps: Pausing) -> None:
    answer = None
    while not isinstance(pause := steps.send(answer), Epoch):
        answer = run.answer(pause)


def epoch_of(pack: Pack, names: list[str]) -> None:
    waiting = set(names)
    for name in names:
        pack.go_on(name)
    while waiting:
        waiting -= pack.round().keys()


def serve(
    arguments: argparse.Namespace, videos: Path, folder: Path, seed: int, threads: int, line: Connection
) -> None:
    """A process of a trial: an epoch for each message."""
    torch.set_num_threads(threads)
    run = start(arguments, videos, folder, seed)
    steps = run.steps()
    epoch_alone(run, steps)
    line.send("ready")
    while line.recv():
        epoch_alone(run, steps)
        synchronize()
        line.send("done")


class Processes:
    """k trials in k processes, which share the device and the cores."""

    def __init__(self, arguments: argparse.Namespace, videos: Path, folder: Path, k: int) -> None:
        context = multiprocessing.get_context("spawn")
        threads = max(1, torch.get_num_threads() // k)
        self._lines, self._processes = [], []
        for seed in range(k):
            line, theirs = context.Pipe()
            task = (arguments, videos, folder, seed, threads, theirs)
            process = context.Process(target=serve, args=task, daemon=True)
            process.start()
            # Ours of its end would hide that it died.
            theirs.close()
            self._lines.append(line)
            self._processes.append(process)
        self._await()

    def epoch(self) -> None:
        """An epoch of each, all at once."""
        for line in self._lines:
            line.send(True)
        self._await()

    def close(self) -> None:
        """End them."""
        for line, process in zip(self._lines, self._processes, strict=True):
            line.send(False)
            process.join()

    def _await(self) -> None:
        for line in self._lines:
            line.recv()


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(run: Callable[[], object]) -> float:
    synchronize()
    began = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - began


def compare(arguments: argparse.Namespace, videos: Path, folder: Path, k: int) -> dict[str, list[float]]:
    """Seconds of each round of each way, the first round, which warms up, left out."""
    alone = [start(arguments, videos, folder / "alone", seed) for seed in range(k)]
    conversations = [run.steps() for run in alone]
    names = [str(seed) for seed in range(k)]
    pack = Pack()
    for seed, name in enumerate(names):
        pack.add(name, lambda seed=seed: start(arguments, videos, folder / "pack", seed))
    with ExitStack() as stack:
        processes = Processes(arguments, videos, folder / "processes", k)
        stack.callback(processes.close)
        ways: dict[str, Callable[[], object]] = {
            ALONE: lambda: [epoch_alone(*pair) for pair in zip(alone, conversations, strict=True)],
            PACKED: lambda: epoch_of(pack, names),
            PROCESSES: processes.epoch,
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for index in range(arguments.rounds + 1):
            for name, way in ways.items():
                elapsed = seconds(way)
                if index:
                    taken[name].append(elapsed)
        for name in names:
            pack.remove(name)
        for steps in conversations:
            steps.close()
    return taken


def flop_of_an_epoch(arguments: argparse.Namespace, videos: Path, folder: Path) -> float:
    run = start(arguments, videos, folder / "counted", 0)
    steps = run.steps()
    epoch_alone(run, steps)
    counter = FlopCounterMode(display=False)
    with counter:
        epoch_alone(run, steps)
    steps.close()
    return float(counter.get_total_flops())


def matrix_rate(arguments: argparse.Namespace) -> float:
    """Operations a second of one large matrix product, the best of ten."""
    device = pick_device()
    dtype = autocast_dtype(experiment_of(arguments, seed=0), device) or torch.float32
    side = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return float(2 * side**3 / min(seconds(lambda: a @ b) for _ in range(10)))


def ratio(slow: list[float], fast: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="debug")
    parser.add_argument("--encoder", default="swin3d_debug")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--videos-per-class", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--k", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        experiment = experiment_of(arguments, seed=0)
        with connect():
            prepared = prepare(plan_videos(experiment, cache=folder / "cache"), cache=folder / "cache")
            prepared.save(folder / "videos.json")
            prepare_cached([(experiment, prepared)], gpus=float(torch.cuda.is_available()))
        flop, rate = flop_of_an_epoch(arguments, folder / "videos.json", folder), matrix_rate(arguments)
        steps = -(-len(prepared.sets["train"]) // arguments.batch)
        print(f"{arguments.backbone}, {steps} steps of {arguments.batch} videos a trial and round, "
              f"{pick_device()}, {torch.get_num_threads()} threads, {rate / 1e12:.2f} TFLOP/s")  # fmt: skip
        print(f"{'k':>2} {'way':22}{'median s':>10}{'epochs/h':>10}{'matrix rate':>13}{'pack is':>10}")
        for k in arguments.k:
            taken = compare(arguments, folder / "videos.json", folder / str(k), k)
            results[str(k)] = taken
            for way, times in taken.items():
                median = statistics.median(times)
                print(
                    f"{k:>2} {way:22}{median:>10.3f}{3600 * k / median:>10.0f}"
                    f"{k * flop / median / rate:>12.1%} {ratio(times, taken[PACKED]):>8.2f}x",
                    flush=True,
                )
    print(json.dumps({"arguments": vars(arguments), "threads": torch.get_num_threads(), "seconds": results}))


if __name__ == "__main__":
    main()
