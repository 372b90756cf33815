"""Wall time, peak memory and accuracy of `make quickstart` as a new user runs it, after the installation.

Expectation: the study, the evaluation on the test split and the report take less than 6 minutes and 4 GB on 2
cores. The best trial is better than zero-shot CLIP on the test split, and so is the low end of its interval.
Memory is the sampled sum of PSS over all processes of a command, so shared pages count once.

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


def tree_mb(root: int) -> dict[str, float]:
    """Return the PSS in MB of a process and of each of its descendants, by command and number."""
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
    return {f"{_command(pid)} {pid}": _pss(pid) / 1024 for pid in members}


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return "ended"
    # "ray::Trainable" as Ray names its processes, or the program and its first argument.
    return " ".join(Path(word).name for word in words[:2])


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def commands(study: Path, cache: Path) -> list[list[str]]:
    """Return the commands of `make quickstart`, with other folders."""
    return [
        ["tune", "quickstart", "--out", str(study), "--cache", str(cache)],
        ["evaluate", str(study / "best"), "--cache", str(cache)],
        ["report", str(study), "--cache", str(cache)],
    ]


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    program = str(Path(sys.executable).with_name("evclip-ray"))
    seconds: dict[str, float] = {}
    peak: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        for arguments in commands(study, Path(folder) / "cache"):
            started = time.perf_counter()
            process = subprocess.Popen([program, *arguments])
            while process.poll() is None:
                peak = max(peak, tree_mb(process.pid), key=lambda memory: sum(memory.values()))
                time.sleep(1)
            seconds[arguments[0]] = time.perf_counter() - started
            assert process.returncode == 0, f"{arguments[0]} ended with {process.returncode}"
        with (study / "leaderboard.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        scores = json.loads((study / "best-test" / "ledger.json").read_text())
    parts = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
    print(f"\n{len(rows)} trials; {sum(seconds.values()):.0f} s ({parts})")
    print(f"peak memory {sum(peak.values()) / 1024:.2f} GiB, of which, in MiB:")
    for name, value in sorted(peak.items(), key=lambda item: -item[1])[:12]:
        print(f"{value:8.0f} {name}")
    for name in ("adapted", "zero_shot", "mask_quality"):
        print(name, scores.get(name))


if __name__ == "__main__":
    main()
