"""Wall time, peak memory and accuracy of the quickstart as a new user runs it.

Expectation: less than 5 minutes and 6 GB for at least 6 trials on 2 cores, and the best trial above chance.
Memory is the sampled sum of PSS over all processes of the command, so shared pages count once.

Run: python benchmarks/quickstart.py
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def tree_mb(root: int) -> float:
    """Return the PSS in MB of a process and its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    members = {root}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in members} - members
        members |= more
        grown = bool(more)
    return sum(_pss(pid) for pid in members) / 1024


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    command = Path(sys.executable).with_name("evclip-ray")
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        started, peak = time.perf_counter(), 0.0
        process = subprocess.Popen(
            [command, "tune", "quickstart", "--out", study, "--cache", Path(folder) / "cache"]
        )
        while process.poll() is None:
            peak = max(peak, tree_mb(process.pid))
            time.sleep(1)
        seconds = time.perf_counter() - started
        assert process.returncode == 0, f"the quickstart ended with {process.returncode}"
        with (study / "leaderboard.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        classes = len(json.loads((study / "best" / "config.json").read_text())["classes"])
    best = rows[0]
    print(f"\n{len(rows)} trials in {seconds:.0f} s, peak memory {peak / 1024:.2f} GB")
    print(
        f"best trial: validation top-1 {float(best['val_top1']):.3f}, 95 % interval "
        f"{float(best['val_top1_low']):.3f} to {float(best['val_top1_high']):.3f}; chance {1 / classes:.3f}, "
        f"zero-shot {float(best['zero_shot_top1']):.3f}"
    )


if __name__ == "__main__":
    main()
