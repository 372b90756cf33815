"""Throughput of the shard stage, as a share of the decoder's own throughput.

Both ways decode the same videos with the same number of processes, in turn within one run:

- decoder alone: a plain loop in one process per core, without Ray; frames are discarded.
- shard stage: `prepare_shards` through Ray Data, with shards and ledger written.

The start of Ray and of the processes is excluded by an untimed first pass. A small data set is listed several
times, under links with other names, so that a pass takes long enough. The processor time of all processes,
Ray's included, is printed as well, because other jobs on the machine disturb it less.

Run: python benchmarks/decoding.py [--data MANIFEST] [--times N] [--repeats N] [--views V] [--decoder D]
"""

import argparse
import dataclasses
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import pyarrow as pa

from evclip_ray.cluster import connect
from evclip_ray.data.manifest.manifest import Manifest, read_manifest
from evclip_ray.data.shards.format import view_seed
from evclip_ray.data.shards.prepare import prepare_shards
from evclip_ray.data.video.decode import VideoError, decode_views, decoder_name, part_in
from evclip_ray.data.video.view import ViewConfig

UT_INTERACTION = Path(__file__).resolve().parents[2] / "shared" / "data" / "ut_interaction_set1"
CORES = len(os.sched_getaffinity(0))


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass over all videos: wall seconds and processor seconds."""

    wall: float
    processors: float


def decode(row: dict[str, Any], *, root: Path, view: ViewConfig, num_views: int) -> int:
    """Decode one row. Return the bytes of its frames, 0 if it does not decode."""
    seeds = [view_seed(0, row, number) for number in range(num_views)]
    try:
        return decode_views(root / row["path"], view=view, seeds=seeds, **part_in(row)).nbytes
    except VideoError:
        return 0


def alone(pool: Pool, manifest: Manifest, view: ViewConfig, num_views: int) -> None:
    one = functools.partial(decode, root=manifest.root, view=view, num_views=num_views)
    for _ in pool.imap_unordered(one, manifest.rows()):
        pass


def shards(manifest: Manifest, view: ViewConfig, num_views: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prepare_shards(manifest, view=view, folder=folder, num_views=num_views)


def processor_seconds() -> float:
    """Return the processor seconds of this process and its living descendants."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(stat.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(ticks[pid] for pid in family) / os.sysconf("SC_CLK_TCK")


def measured(work: Callable[[], None]) -> Pass:
    wall, processors = time.perf_counter(), processor_seconds()
    work()
    return Pass(time.perf_counter() - wall, processor_seconds() - processors)


def listed(manifest: Manifest, times: int, folder: Path) -> Manifest:
    """List each row of a manifest `times` times, through links with other names."""
    for number in range(times):
        (folder / str(number)).symlink_to(manifest.root, target_is_directory=True)
    rows = [row | {"path": f"{number}/{row['path']}"} for number in range(times) for row in manifest.rows()]
    return Manifest(pa.Table.from_pylist(rows, manifest.table.schema), folder, "listed", True)


def report(passes: list[tuple[Pass, Pass]], num_videos: int) -> None:
    plain, staged = (statistics.median(num_videos / both[way].wall for both in passes) for way in (0, 1))
    for name, rate in (("decoder alone", plain), ("shard stage", staged)):
        print(f"{name}: {rate:.1f} videos/s, {rate / CORES:.1f} a core (median)")
    walls = sorted(first.wall / second.wall for first, second in passes)
    busy = sorted(first.processors / second.processors for first, second in passes)
    for name, ratios in (("rate", walls), ("processor time, inverse", busy)):
        print(f"ratio by {name}: {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=UT_INTERACTION / "manifest.csv")
    parser.add_argument("--times", type=int, default=8, help="how often each video is listed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--decoder", choices=["pyav", "torchcodec"], default="pyav")
    arguments = parser.parse_args()
    view, num_views = ViewConfig(num_frames=8, decoder=arguments.decoder), arguments.views
    manifest = read_manifest(arguments.data)
    with (
        tempfile.TemporaryDirectory() as folder,
        get_context("spawn").Pool(CORES) as pool,
        connect(num_cpus=CORES),
    ):
        alone(pool, manifest, view, num_views)
        many = listed(manifest, arguments.times, Path(folder))
        print(
            f"{decoder_name(view.decoder)}; {CORES} cores; {num_views} x 8 frames of 256 x 256;"
            f" {len(manifest)} videos listed {arguments.times} times"
        )
        shards(manifest, view, num_views)
        passes = []
        for _ in range(arguments.repeats):
            passes.append(
                (
                    measured(lambda: alone(pool, many, view, num_views)),
                    measured(lambda: shards(many, view, num_views)),
                )
            )
            print(f"  {passes[-1]}, load {os.getloadavg()[0]:.1f}", flush=True)
    report(passes, len(many))


if __name__ == "__main__":
    main()
