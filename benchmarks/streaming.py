"""Training speed with features larger than memory, relative to features in memory.

Data: maps of swin3d (768, 4, 7, 7) in bfloat16, 301 KB per view, read in random order in batches of 16.
A step on one thread runs between batches. Its length is set so that reading needs a given share of the rate
at which the disk reads such rows in random order. The same epoch is read in three modes, in turn:

- in memory: from pages that are in the page cache.
- streamed: the pages are dropped before the epoch, as for a set larger than memory.
- faulting: as streamed, but without reading ahead.

Result: the rate relative to "in memory". 1 means that the disk costs nothing.

Run: python benchmarks/streaming.py [--gigabytes 2] [--folder FOLDER]
"""

import argparse
import gc
import os
import random
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from evclip_ray.artifacts import write_ledger
from evclip_ray.data.shards.dataset import STAGE, ShardSet, open_shards, write_index
from evclip_ray.data.shards.format import schema
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.features.dataset import FeatureSet
from evclip_ray.features.format import write_features
from evclip_ray.features.spec import video_map
from evclip_ray.training.datamodule import VideoSet
from evclip_ray.training.loader import Batches

MAP, BATCH, ROWS, VIEWS = (768, 4, 7, 7), 16, 128, 2
ROW_BYTES = int(np.prod(MAP)) * 2
SPEC = video_map("swin3d_t", "random", backbone="ViT-B-32", precision="bfloat16", augment=None)
MODES = ("in memory", "streamed", "faulting")


def make(folder: Path, videos: int) -> tuple[ShardSet, Path]:
    """Write a shard set whose frames are never read, and the maps of its views."""
    view, rows = ViewConfig(num_frames=8, fit="crop"), []
    inputs = {"view": view.model_dump(), "num_views": 1}
    for number in range(videos // ROWS):
        name = f"shard-{number:05d}.arrow"
        with pa.ipc.new_file(str(folder / name), schema(view, name)):
            pass
        for place in range(ROWS):
            named = {"row": len(rows), "path": f"{len(rows)}.mp4", "label": str(len(rows) % 51)}
            rows.append({"file": name, "batch": place, **named})
    ledger = write_ledger(folder, STAGE, inputs=inputs)
    write_index(folder, rows, ledger["key"])
    shards = open_shards(folder)
    for path in FeatureSet(folder / "features", SPEC, shards, VIEWS).files():
        write_features(path, torch.randn(ROWS, *MAP).bfloat16(), path.stem)
    return shards, folder / "features"


def drop(paths: list[Path]) -> None:
    """Drop the pages of these files from the page cache."""
    for path in paths:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_rates(paths: list[Path]) -> tuple[float, float]:
    """Return the cold rates in bytes/s of whole files in order, and of random rows by eight threads."""
    drop(paths)
    began = time.perf_counter()
    total = sum(len(path.read_bytes()) for path in paths)
    sequential = total / (time.perf_counter() - began)
    drop(paths)
    places = [(path, row * ROW_BYTES) for path in paths for row in range(ROWS)]
    random.Random(0).shuffle(places)

    def read(place: tuple[Path, int]) -> int:
        path, offset = place
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
        count = len(os.pread(handle, ROW_BYTES, offset))
        os.close(handle)
        return count

    began = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        total = sum(pool.map(read, places))
    return sequential, total / (time.perf_counter() - began)


def step(batch: torch.Tensor, seconds: float) -> None:
    """Read the whole batch, as the trained layers do, and compute until `seconds` have passed."""
    began = time.perf_counter()
    batch.float().mean((2, 3, 4))
    weights = torch.ones(256, 256)
    while time.perf_counter() - began < seconds:
        weights @ weights


def epoch(mode: str, shards: ShardSet, store: Path, view: int, seconds: float) -> float:
    """Return the videos per second of one epoch of a view, with newly mapped files."""
    # Memory maps of the previous epoch would keep its pages in the cache.
    gc.collect()
    found = FeatureSet(store, SPEC, shards, VIEWS)
    labels = np.zeros(len(shards), np.int64)
    batches = Batches(
        VideoSet(shards, labels),
        size=224,
        device=torch.device("cpu"),
        features={"video_map": found},
        pixels=False,
    )
    batches.streams = mode == "streamed"
    found.read(range(0, len(shards), ROWS), view, release=True)
    paths = list(found.files())
    if mode == "in memory":
        found.read(range(len(shards) // 2), view, release=True)
        found.read(range(len(shards) // 2, len(shards)), view, release=True)
    else:
        drop(paths)
    order = np.random.default_rng(view).permutation(len(shards))
    groups = np.split(order, len(order) // BATCH)
    began = time.perf_counter()
    for batch in batches(groups, view=view):
        step(batch.video_map, seconds)
    return len(order) / (time.perf_counter() - began)


def mapped_megabytes() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssFile")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure (default: /tmp)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        videos = int(arguments.gigabytes * 1e9 / VIEWS / ROW_BYTES) // ROWS * ROWS
        shards, store = make(Path(folder), videos)
        paths = sorted(store.rglob("*.arrow"))
        sequential, scattered = disk_rates(paths)
        print(f"{videos} videos x {VIEWS} views, {sum(p.stat().st_size for p in paths) / 1e9:.2f} GB")
        print(f"the disk: {sequential / 1e6:.0f} MB/s in order, {scattered / 1e6:.0f} MB/s rows at random\n")
        head = ("requested rate", "ms per step", *(f"{m}, videos/s" for m in MODES), "streamed", "faulting")
        print("  ".join(f"{name:>20s}" for name in head))
        before = mapped_megabytes()
        for share in (0.1, 0.25, 0.5, 0.75):
            seconds = BATCH * ROW_BYTES / (share * scattered)
            rates: dict[str, list[float]] = {mode: [] for mode in MODES}
            for number in range(arguments.rounds):
                for mode in MODES:
                    rates[mode].append(epoch(mode, shards, store, number % VIEWS, seconds))
            memory, streamed, faulting = (statistics.median(rates[mode]) for mode in MODES)
            cells = (
                f"{100 * share:.0f} % of the disk",
                f"{1e3 * seconds:.1f}",
                f"{memory:.0f}",
                f"{streamed:.0f}",
                f"{faulting:.0f}",
                f"{streamed / memory:.3f}",
                f"{faulting / memory:.3f}",
            )
            print("  ".join(f"{cell:>20s}" for cell in cells), flush=True)
        epoch("streamed", shards, store, 0, 0.0)
        print(f"\nmapped files in this process's memory grew by {mapped_megabytes() - before:.0f} MB")


if __name__ == "__main__":
    main()
