"""Time and memory for a manifest of Kinetics-700's size: import, leak check, 16 shots, file, record of rows.

The script makes 650,000 sparse files of 300 KB with the names of Kinetics and the official CSV, which is not
timed. Expectation: import, leak check and 16 shots take less than 20 s together and less than 2 GB.
Leaks are found by path and group only. Comparing contents would report files of equal size as duplicates.
The record of rows reads 192 KiB of each file once (0.25 ms of one CPU each, so less than 200 s on two CPUs,
without the time of a disk). Comparing the videos with the record later reads no file (less than 40 s).

With `--objects`, only the record of rows is measured, for objects of a local S3 server that answers each
request after `--delays` (`object_storage.py`).

Run: python benchmarks/manifest.py [--rows 650000] [--objects classes --delays 0 50 100]
"""

import argparse
import itertools
import resource
import tempfile
import time
from pathlib import Path

from object_storage import LAYOUTS, measure

from evclip_ray.data.importers import import_dataset
from evclip_ray.data.manifest.leaks import refuse_leaks
from evclip_ray.data.manifest.manifest import read_manifest, write_manifest
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.data.manifest.splits import few_shot

CLASSES = 700


def make(root: Path, rows: int) -> None:
    lines = ["label,youtube_id,time_start,time_end,split"]
    for label in range(CLASSES):
        (root / f"class {label}").mkdir(parents=True)
    for row in range(rows):
        label, video = f"class {row % CLASSES}", f"v{row:010d}"
        split = "validate" if row // CLASSES % 20 == 0 else "train"
        lines.append(f"{label},{video},1,11,{split}")
        with (root / label / f"{video}_000001_000011.mp4").open("wb") as file:
            file.truncate(300_000 + row % 10_000)
    (root / "annotations").mkdir()
    (root / "annotations" / "kinetics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=650_000)
    parser.add_argument("--objects", choices=list(LAYOUTS), help="layout of objects in a storage")
    parser.add_argument("--delays", type=float, nargs="+", default=[0, 50, 100], help="ms of each request")
    arguments = parser.parse_args()
    rows = arguments.rows
    if arguments.objects is not None:
        measure(rows, arguments.objects, arguments.delays)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "videos"
        make(root, rows)
        times = [time.perf_counter()]
        report = import_dataset("kinetics", root)
        times.append(time.perf_counter())
        refuse_leaks(report.manifest, content=False)
        times.append(time.perf_counter())
        shots = few_shot(report.manifest, shots=16, seed=0)
        times.append(time.perf_counter())
        assert len(report.manifest) == rows
        assert len(shots) == 16 * CLASSES
        write_manifest(report.manifest, Path(folder) / "all.parquet")
        read = read_manifest(Path(folder) / "all.parquet", root=root)
        times.append(time.perf_counter())
        assert read.digest() == report.manifest.digest()
        used = {split: read.in_split(split) for split in ("train", "val")}
        record = RowRecord.of(read, used)
        times.append(time.perf_counter())
        record.write(Path(folder) / "rows.parquet")
        size = (Path(folder) / "rows.parquet").stat().st_size / 2**20
        recorded = RowRecord.read(Path(folder) / "rows.parquet")
        assert not recorded.difference(RowRecord.of(read, used, known=recorded))
        times.append(time.perf_counter())
    steps = ("import", "leaks", "16 shots", "write and read", "record rows", "compare rows")
    seconds = [b - a for a, b in itertools.pairwise(times)]
    for name, taken in zip(steps, seconds, strict=True):
        print(f"{name:<28} {taken:6.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"size of the record: {size:.1f} MiB")
    print(f"the first three, {rows:,} rows: {sum(seconds[:3]):.1f} s, wanted under 20")
    print(f"peak memory of the process: {peak:.2f} GB, wanted under 2")


if __name__ == "__main__":
    main()
