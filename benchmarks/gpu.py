"""Use of a GPU: matrix rate, training steps, trials that share the card, the features stage, a whole study.

All weights are random, which does not change the arithmetic. The share of a step is its useful FLOP per
second over the measured rate of matrix products in bfloat16, both as in the history of a run. A section is
skipped, and named with the reason, if a package is missing or the time is used up. The rows of the goals come
first, and `more-steps` measures the others in what is left of the time; `--minutes` gives it more.

Goals on an H100 or H200, EV-CLIP with both prompts on ViT-B/16, 8 frames, cached map: a share of 0.45 at
batch 16 and 0.50 at batch 64, 150 videos/s at batch 2, 3 times the steps per second with 4 trials on the card
at batch 2, and 0.80 of the bare encoder in the features stage.

Run: python benchmarks/gpu.py --out gpu.json
Without a GPU, `--device cpu --small` runs every section on the debug towers, to test the script.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import logging
import multiprocessing
import platform
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import pyarrow as pa
    import torch

    from evclip_ray.artifacts import write_ledger
    from evclip_ray.config import ConfigError
    from evclip_ray.data.shards.dataset import STAGE, open_shards, write_index
    from evclip_ray.data.shards.format import schema
    from evclip_ray.data.video.view import ViewConfig
    from evclip_ray.features.batches import JOBS_AT_ONCE
    from evclip_ray.features.encode import load_network, run_job
    from evclip_ray.features.extract import view_jobs
    from evclip_ray.features.spec import FeatureSpec, video_map
    from evclip_ray.formatting import counted
    from evclip_ray.models.batch import VideoBatch
    from evclip_ray.training.build import autocast_dtype, build_method
    from evclip_ray.training.distributed import Workers
    from evclip_ray.training.experiment import ExperimentConfig
    from evclip_ray.training.matrix_rate import measure_matrix_rate
    from evclip_ray.training.step import TrainingStep
    from evclip_ray.training.step_graphs import REPAYING_STEPS, timed_launches
    from evclip_ray.training.useful_flop import useful_flop
except ModuleNotFoundError as missing:
    raise SystemExit(f"nothing is measured: every section needs the package {missing.name!r}") from None

BACKBONES = {"ViT-B-16": "swin3d_s", "ViT-B-32": "swin3d_t", "ViT-L-14": "swin3d_s", "RN50": "swin3d_s"}
CLASSES = tuple(f"class number {index}" for index in range(101))
_SHARD_VIDEOS = 42
"""Videos of 8 frames of 256 x 256 pixels in a shard of 64 MiB."""
_Row = tuple[str, int, str, bool]
"""Backbone, batch size, variant of the step and whether the map is cached."""
_FIRST: list[_Row] = [
    *itertools.product(["ViT-B-16"], [16, 2, 64], ["eager", "compiled"], [True]),
    ("ViT-B-16", 2, "graphs", True),
]
"""The rows of the goals. A compilation takes up to a minute, and the other sections need their time too."""
_BACKBONES_OF_MORE = ["ViT-B-16", "ViT-B-32", "ViT-L-14", "RN50"]
_MORE: list[_Row] = [
    *itertools.product(_BACKBONES_OF_MORE[1:], [16, 2, 64], ["eager"], [True]),
    *itertools.product(["ViT-B-16"], [2, 16], ["graphs", "compiled, graphs"], [True]),
    *itertools.product(_BACKBONES_OF_MORE, [16, 2, 64], ["eager"], [False]),
    *itertools.product(_BACKBONES_OF_MORE, [2, 16, 64], ["graphs"], [True]),
    *itertools.product(_BACKBONES_OF_MORE, [16, 2, 64], ["compiled"], [True]),
    *itertools.product(_BACKBONES_OF_MORE, [16, 2, 64], ["compiled"], [False]),
]


class Skipped(Exception):
    """A section or a row cannot run here."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """Settings of a run of the benchmark."""

    device: torch.device
    small: bool
    deadline: float

    def experiment(self, backbone: str = "ViT-B-16", *, batch: int = 16, **more: Any) -> ExperimentConfig:
        """Return EV-CLIP with both prompts on a backbone, with random weights."""
        encoder = BACKBONES[backbone]
        if self.small:
            backbone, encoder = "debug", "swin3d_debug"
        settings = {
            "data.manifest": "none.csv",
            "backbone.name": backbone,
            "backbone.pretrained": "random",
            "method.name": "ev_clip",
            "method.video_encoder.name": encoder,
            "method.video_encoder.weights": "random",
            "optim.batch_size": batch,
        }
        return ExperimentConfig.load({}, settings | more)

    def check_time(self, needed: float) -> None:
        """Raise `Skipped` if fewer seconds than `needed` are left."""
        left = self.deadline - time.monotonic()
        if left < needed:
            raise Skipped(f"{left:.0f} s of the time are left, {needed:.0f} s are needed")

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], object], *, repeats: int, warm_up: int = 2) -> float:
        """Return the median duration of a call."""
        taken = []
        for index in range(warm_up + (2 if self.small else repeats)):
            self.synchronize()
            began = time.perf_counter()
            run()
            self.synchronize()
            if index >= warm_up:
                taken.append(time.perf_counter() - began)
        return statistics.median(taken)


@dataclasses.dataclass
class Steps:
    """Training steps of one method on one batch that stays on the device."""

    training: TrainingStep
    batch: VideoBatch
    generator: torch.Generator

    @classmethod
    def of(
        cls, bench: Bench, experiment: ExperimentConfig, *, cached: bool, with_graphs: bool = False
    ) -> "Steps":
        """Build the method of an experiment. With `cached`, the batch has the video map.

        Raises:
            Skipped: CUDA graphs are wanted on a CPU.
        """
        device, size = bench.device, experiment.optim.batch_size
        dtype = autocast_dtype(experiment, device)
        method = build_method(experiment, CLASSES, device=device).train()
        side = method.frozen.clip.image_size
        pixels = torch.rand(size, 8, 3, side, side, device=device)
        batch = VideoBatch(pixels, labels=torch.arange(size, device=device) % len(CLASSES))
        if cached:
            encoder = method.frozen.video_encoder
            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype is not None):
                video_map = encoder(encoder.prepare(pixels))
            batch = dataclasses.replace(batch, video_map=video_map)
        # Enough steps for graphs, and too few to compile by default.
        count = REPAYING_STEPS if with_graphs else 0
        training = TrainingStep(
            method, experiment, workers=Workers(), device=device, dtype=dtype, num_steps=count
        )
        if with_graphs and training.graphs is None:
            raise Skipped("a CPU has no CUDA graphs")
        if training.graphs:
            # Without the measurement of the first steps, which may decide against them.
            training.graphs.is_wanted = True
        return cls(training, batch, torch.Generator())

    def __call__(self) -> None:
        """Take a step."""
        self.training(self.batch, rate=1e-4, num_videos=len(self.batch.labels), generator=self.generator)


def steps_table(bench: Bench, *, plan: list[_Row]) -> Iterator[dict[str, Any]]:
    """Yield one row per backbone, batch size and variant of the step, in the order of the plan."""
    is_gpu = bench.device.type == "cuda"
    rate = measure_matrix_rate(bench.device, torch.bfloat16 if is_gpu else torch.float32)
    yield {"row": "matrix rate", "tflop_per_second": rate / 1e12}
    for backbone, size, variant, cached in plan:
        row = {"row": f"{backbone}, batch {size}, map {'cached' if cached else 'live'}, {variant}"}
        try:
            bench.check_time(90 if "compiled" in variant else 20)
            yield row | step_row(bench, rate, backbone, size, variant, cached=cached)
        except (Skipped, ConfigError, torch.OutOfMemoryError) as reason:
            yield row | {"skipped": " ".join(str(reason).split())[:200]}


def step_row(
    bench: Bench, rate: float, backbone: str, size: int, variant: str, *, cached: bool
) -> dict[str, Any]:
    """Measure one row of the table of steps."""
    setting = {"eager": "off", "graphs": "auto"}.get(variant, "on")
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    experiment = bench.experiment(backbone, batch=size, compile=setting)
    measured = Steps.of(bench, experiment, cached=cached, with_graphs="graphs" in variant)
    began = time.perf_counter()
    measured()
    bench.synchronize()
    first = time.perf_counter() - began
    seconds = bench.seconds(measured, repeats=20, warm_up=3)
    graphs = measured.training.graphs
    if graphs and not graphs.num_graphs:
        raise Skipped("the graph could not be captured, see the log")
    busy = timed_launches(measured)[1] if bench.device.type == "cuda" else None
    peak = torch.cuda.max_memory_allocated(bench.device) / 2**30 if bench.device.type == "cuda" else None
    return {
        "ms": 1e3 * seconds,
        "videos_per_second": size / seconds,
        "share": useful_flop(experiment, CLASSES, measured.batch) / seconds / rate,
        "first_step_seconds": first,
        # The rule of `step_graphs` compares it with 0.1.
        "busy_after_launch": busy,
        "peak_gib": peak,
    }


def _train_together(bench: Bench, sizes: list[int], seconds: float, barrier: Barrier, results: Any) -> None:
    quiet()
    for size in sizes:
        steps = Steps.of(bench, bench.experiment(batch=size, compile="off"), cached=True)
        for _ in range(2 if bench.small else 5):
            steps()
        bench.synchronize()
        barrier.wait(120)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            steps()
            bench.synchronize()
            count += 1
        results.put((size, count / (time.perf_counter() - began)))
        barrier.wait(120)


def sharing_table(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yield the steps per second of 1, 2, 4 and 8 processes that share the card, relative to one."""
    sizes, seconds = ([2], 1.0) if bench.small else ([2, 16], 6.0)
    alone: dict[int, float] = {}
    for count in (1, 2) if bench.small else (1, 4, 2, 8):
        bench.check_time(45)
        context = multiprocessing.get_context("spawn")
        barrier, results = context.Barrier(count), context.SimpleQueue()
        arguments = (bench, sizes, seconds, barrier, results)
        workers = [context.Process(target=_train_together, args=arguments) for _ in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            yield {"row": f"{count} processes", "skipped": "a process failed, see its traceback"}
            continue
        rates: dict[int, float] = dict.fromkeys(sizes, 0.0)
        for _ in range(count * len(sizes)):
            size, rate = results.get()
            rates[size] += rate
        for size, rate in rates.items():
            alone.setdefault(size, rate)
            row = f"{count} processes, batch {size}"
            yield {"row": row, "steps_per_second": rate, "gain": rate / alone[size]}


def write_random_shards(folder: Path, count: int) -> None:
    """Write `count` videos of random frames in shards of the usual size, without decoding."""
    view = ViewConfig(num_frames=8, height=256, width=256, fit="crop")
    rows: list[dict[str, Any]] = []
    shape, random = (view.num_frames, 256, 256, 3), np.random.default_rng(0)
    for start in range(0, count, _SHARD_VIDEOS):
        file = f"shard-{start // _SHARD_VIDEOS:05d}.arrow"
        columns = schema(view, file)
        with pa.ipc.new_file(str(folder / file), columns) as writer:
            for batch, row in enumerate(range(start, min(start + _SHARD_VIDEOS, count))):
                video = {"row": row, "path": f"{row}.mp4", "label": CLASSES[row % len(CLASSES)]}
                pixels = pa.array(random.integers(0, 256, int(np.prod(shape)), dtype=np.uint8))
                frames = pa.FixedSizeListArray.from_arrays(pixels, int(np.prod(shape)))
                values = video | {"view": 0, "split": "train", "group": ""}
                arrays = [
                    pa.array([values[field.name]], field.type) for field in columns if field.name in values
                ]
                frames = pa.ExtensionArray.from_storage(columns.field("frames").type, frames)
                writer.write_batch(pa.record_batch([frames, *arrays], schema=columns))
                rows.append({"file": file, "batch": batch, **video})
    ledger = write_ledger(folder, STAGE, inputs={"view": view.model_dump(), "num_views": 1})
    write_index(folder, rows, ledger["key"])


def run_stage(bench: Bench, spec: FeatureSpec, shards: Path, at_once: int) -> None:
    """Compute and write the features of all shards as an actor does, with some jobs at once."""
    with tempfile.TemporaryDirectory() as store:
        jobs = view_jobs(Path(store), spec, open_shards(shards), 1)
        with ThreadPoolExecutor(at_once) as pool:
            # A list, so that an error of a job is raised.
            list(pool.map(functools.partial(run_job, device=bench.device), jobs))


def features_table(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yield the videos per second of the features stage for video maps, and its share of the bare encoder."""
    bench.check_time(40)
    backbone, encoder = ("debug", "swin3d_debug") if bench.small else ("ViT-B-16", "swin3d_s")
    precision = "bfloat16" if bench.device.type == "cuda" else "float32"
    spec = dataclasses.replace(
        video_map(encoder, "random", backbone=backbone, precision=precision, augment=None),
        device=bench.device.type,
    )
    count, size = (8, 4) if bench.small else (512, 64)
    network = load_network(spec, bench.device)
    pixels = torch.rand(size, 8, 3, network.image_size, network.image_size, device=bench.device)
    with torch.no_grad(), torch.autocast(bench.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        bare = size / bench.seconds(lambda: network(network.prepare(pixels)), repeats=5)
    with tempfile.TemporaryDirectory() as folder:
        write_random_shards(Path(folder), count)
        for at_once in (JOBS_AT_ONCE, 1):
            run = functools.partial(run_stage, bench, spec, Path(folder), at_once)
            rate = count / bench.seconds(run, repeats=3, warm_up=1)
            row = f"features stage, {counted(at_once, 'file')} at once"
            yield {"row": row, "videos_per_second": rate, "bare": bare, "share": rate / bare}


def study_table(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yield the seconds of a study of 8 trials, the sum of those in which they trained, and their speed."""
    bench.check_time(60)
    from evclip_ray import api

    settings = {
        "data.world.domain": "clutter",
        "data.world.held_out_only": True,
        "data.world.train_videos": 8,
        "data.world.val_videos": 4,
        "data.world.test_videos": 1,
        "optim.epochs": 2 if bench.small else 6,
    }
    if not bench.small:
        towers = bench.experiment()
        settings |= {
            "backbone.name": towers.backbone.name,
            "backbone.pretrained": "random",
            "method.video_encoder.name": towers.method.video_encoder.name,
            "method.video_encoder.weights": "random",
            "method.mask.window": 7,
        }
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        space = "debug" if bench.small else "quickstart"
        study = api.tune(
            space,
            out=Path(folder) / "study",
            cache=Path(folder) / "cache",
            overrides=settings,
            study={"trials": 2 if bench.small else 8, "scheduler": "none"},
        )
        wall = time.perf_counter() - began
        trained = float(study.trials["seconds"].sum())
        yield {
            "row": "8 trials" if not bench.small else "2 trials",
            "wall": wall,
            "trained": trained,
            **study.speed,
        }


TABLES: dict[str, Callable[[Bench], Iterator[dict[str, Any]]]] = {
    "steps": functools.partial(steps_table, plan=_FIRST),
    "sharing": sharing_table,
    "features": features_table,
    "study": study_table,
    # Last, with the time that is left: the rest of the table of steps.
    "more-steps": functools.partial(steps_table, plan=[row for row in _MORE if row not in _FIRST]),
}


def quiet() -> None:
    """Hide the warnings of random weights, which are intended here."""
    logging.disable(logging.WARNING)


def shown(value: Any) -> str:
    """Return a number with three digits, and any other value as text."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run the sections and print and save their rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="debug towers and short runs")
    parser.add_argument("--minutes", type=float, default=8, help="nothing starts that would end later")
    parser.add_argument("--only", choices=TABLES, action="append", help="sections to run; by default all")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="file of the results")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("skipped: no GPU is visible; --device cpu --small tests the script")
        return
    quiet()
    bench = Bench(device, options.small, time.monotonic() + 60 * options.minutes)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    record: dict[str, Any] = {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "rows": [],
    }
    print(f"{name}, torch {torch.__version__}, Python {platform.python_version()}", flush=True)
    failed: list[str] = []
    for section in options.only or TABLES:
        began = time.monotonic()
        rows = TABLES[section](bench)
        while True:
            try:
                row = next(rows, None)
            # A missing package or too little time ends the section, and the others run.
            except (ImportError, Skipped) as reason:
                row = {"row": section, "skipped": str(reason)}
                rows = iter(())
            # A section that fails does so too: the machine may not come back.
            except Exception as problem:
                traceback.print_exc()
                row = {"row": section, "failed": repr(problem)}
                rows, failed = iter(()), [*failed, section]
            if row is None:
                break
            record["rows"].append({"section": section, **row})
            # Saved after each row: the machine may be taken away.
            options.out.write_text(json.dumps(record, indent=1))
            print(
                f"{section:10} {row.pop('row'):50} " + "  ".join(f"{k} {shown(v)}" for k, v in row.items()),
                flush=True,
            )
        print(f"{section}: {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
