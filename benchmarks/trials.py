"""Overhead of a one-worker trial besides its training steps, and memory growth over many trials.

Runs one study of 20 debug-size trials on small videos, one trial at a time. The overhead of a trial
is its wall time minus the time of its training steps: process reuse, building, opening videos, validation,
checkpoints, event files.

Expectation: the median overhead after the first trial is less than 4 s. The resident memory of the trial
process changes by less than 10 % from its second to its last trial.

Run: python benchmarks/trials.py [--trials 20]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from evclip_ray.cluster import connect
from evclip_ray.records import TrialRecord
from evclip_ray.tuning.search_space import read_space
from evclip_ray.tuning.space_files import find_space
from evclip_ray.tuning.tuner import StudyRun


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20)
    trials = parser.parse_args().trials
    settings = {
        "data.world": {"classes": 6, "train_videos": 5, "val_videos": 2, "test_videos": 1},
        "optim.epochs": 4,
        "method.prompts": "both",
        "method.mask.depth": 2,
    }
    space = read_space(
        find_space("debug"), settings, study={"trials": trials, "scheduler": "none", "sampler": "random"}
    )
    ended, memory = [], {}

    def watch(kind: str, record: TrialRecord) -> None:
        if kind == "ended":
            ended.append((record.trial, time.perf_counter()))
            memory[record.trial] = resident_mb(record.last["pid"])

    with tempfile.TemporaryDirectory() as folder, connect(num_cpus=1) as machines:
        run = StudyRun(space, Path(folder) / "study", cache=Path(folder) / "cache")
        plan = run.plan(machines)
        run.claim()
        run.prepare()
        began = time.perf_counter()
        run.run(plan, watch)
        walls = [b - a for a, b in zip([began, *(t for _, t in ended)], [t for _, t in ended], strict=False)]
        steps = []
        for trial, _ in ended:
            lines = (run.folder.trial(trial) / "history.jsonl").read_text().splitlines()
            steps.append(sum(json.loads(line)["train_seconds"] for line in lines))
    overheads = [wall - step for wall, step in zip(walls, steps, strict=True)]
    resident = [memory[trial] for trial, _ in ended]
    print(
        f"trials {len(ended)}, one at a time; overhead of the first {overheads[0]:.1f} s (its process starts)"
    )
    print(
        f"overhead of the others: median {statistics.median(overheads[1:]):.2f} s, "
        f"worst {max(overheads[1:]):.2f} s; their training steps: median {statistics.median(steps[1:]):.2f} s"
    )
    print(
        f"resident memory of the trial process: {resident[1]:.0f} MB at its 2nd trial, "
        f"{resident[-1]:.0f} MB at its last: growth {100 * (resident[-1] / resident[1] - 1):+.1f} %"
    )


if __name__ == "__main__":
    main()
