"""Time of a study on 1 to 1,000 GPUs, what the GPUs wait for, and where more GPUs stop helping.

`simulate` reads the cost of each part from a YAML file (fields: benchmarks/simulation/plan.py). Each section
states the source of its numbers. --costs replaces some sections by measured ones.

`validate` runs real studies on clusters of several nodes on this machine (cluster/local.sh) and compares
their time with the simulated time. Trials sleep instead of training (benchmarks/driver.py), because two cores
cannot train eight trials at once. This tests scheduling, but not arithmetic, storage or decoding. The costs
are measured in a separate study on one node with other learning curves. Only the start time of a process is
multiplied by the number of nodes, because the nodes share the cores of this machine.
Expectation: the simulated time is within 15 % of the measured time.

Run: python benchmarks/cluster_plan.py simulate --set study.trials=1024 --gpus 1 8 64 512 --out FOLDER
     python benchmarks/driver.py --out driver.yaml      # measures, for --costs driver.yaml
     python benchmarks/cluster_plan.py validate --nodes 1 2 3 4 --seconds 1 0.05 --out FOLDER
"""

import argparse
import contextlib
import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import yaml
from driver import GRACE_EPOCHS
from simulation.plan import ClusterPlan
from simulation.scaling import speed_up, where_it_stops
from simulation.study import Simulated, simulate
from simulation.timesheet import BUSY, Doing

from evclip_ray.config import override, parse_assignments, read_yaml
from evclip_ray.formatting import duration

HERE = Path(__file__).resolve().parent
GPUS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]
WANTED = 0.15
SLOTS = 2
"""Trials at once on one node of the validation."""


def read_plan(file: Path, costs: Path | None, assignments: Sequence[str]) -> ClusterPlan:
    tree = read_yaml(file)
    if costs is not None:
        # Only the driver: a measured trial sleeps, which tells nothing about a GPU.
        tree["driver"] = read_yaml(costs)["driver"]
    return ClusterPlan.load(override(tree, parse_assignments(tuple(assignments))))


def run_simulation(arguments: argparse.Namespace) -> None:
    plan = read_plan(arguments.plan, arguments.costs, arguments.set)
    for name in ("trial", "driver", "videos", "cluster"):
        print(f"{name}: {getattr(plan, name).source}")
    runs = []
    print(f"\n{plan.trials} trials of {plan.epochs} epochs\n{HEADING}")
    for gpus in sorted(arguments.gpus):
        runs.append(simulate(plan, gpus))
        print(line(runs, runs[-1]), flush=True)
    print(f"\n{where_it_stops(runs)}")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write(
            arguments.out / "cluster_plan.csv",
            [run.row() | {"speed_up": speed_up(runs, run)} for run in runs],
        )
        draw(runs, arguments.out / "cluster_plan.png")


HEADING = (
    f"{'GPUs':>5} {'study':>8} {'speed-up':>8} {'GPUs idle':>9} {'driver':>7} {'storage':>8} {'GB':>8} "
    f"{'GB/s':>6} {'MB/s, GPU':>9}  most of the idle time"
)


def line(runs: Sequence[Simulated], run: Simulated) -> str:
    row, gained, (reason, share) = run.row(), speed_up(runs, run), run.idle()[0]
    return (
        f"{run.num_gpus:>5} {duration(run.seconds):>8} {gained:>8.1f} {row['gpu_idle_share']:>9.0%} "
        f"{run.driver_share:>7.1%} {run.storage_share:>8.1%} {row['storage_gb']:>8.0f} "
        f"{row['storage_gb_per_second']:>6.2f} {1e3 * row['network_gb_per_second_and_gpu']:>9.2f}  "
        f"{reason.value} {share:.0%}"
    )


def write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    # The order of the reasons differs between rows, so the columns are sorted.
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, sorted(rows[0], key=lambda name: (name.startswith("idle"), name)))
        writer.writeheader()
        writer.writerows(rows)


def draw(runs: Sequence[Simulated], file: Path) -> None:
    """Plot study time and use of GPU time by the number of GPUs."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    gpus = [run.num_gpus for run in runs]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    left.plot(gpus, [run.seconds / 3600 for run in runs], "o-", color="#0072B2", label="simulated")
    perfect = [runs[0].num_gpus * runs[0].seconds / 3600 / count for count in gpus]
    left.plot(gpus, perfect, "--", color="#D55E00", label="linear speed-up")
    left.set(
        xscale="log", yscale="log", xlabel="GPUs", ylabel="study (h)", title=f"{len(runs[0].trials)} trials"
    )
    left.legend(frameon=False)
    left.grid(alpha=0.3)
    shares = {
        doing: [run.gpu_seconds[doing] / sum(run.gpu_seconds.values()) for run in runs]
        for doing in sorted(Doing, key=lambda doing: doing not in BUSY)
    }
    shown = {doing: values for doing, values in shares.items() if max(values) > 0.005}
    colours = [pyplot.get_cmap("tab20")(2 * n % 20 + n // 10) for n in range(len(shown))]
    right.stackplot(gpus, *shown.values(), labels=[doing.value for doing in shown], colors=colours)
    right.set(xscale="log", xlabel="GPUs", ylabel="share of GPU time", ylim=(0, 1), title="What GPUs do")
    right.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(file, dpi=110)
    print(f"figure and CSV in {file.parent}")


@contextlib.contextmanager
def local_nodes(nodes: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Start nodes with `SLOTS` CPUs each. Yields the address and the environment to connect with."""
    # A socket's path is limited to 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="evp.", dir="/tmp"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    clean["PATH"] = f"{Path(sys.executable).parent}:{clean['PATH']}"
    port, client, dashboard = (_free_port() for _ in range(3))
    settings = {
        "NODES": nodes,
        "CPUS": SLOTS,
        "GPUS": 0,
        "FOLDER": folder,
        "PORT": port,
        "CLIENT_PORT": client,
        "DASHBOARD_PORT": dashboard,
    }
    log = folder.with_name(f"{folder.name}.out")
    with log.open("w") as stream:
        process = subprocess.Popen(
            ["bash", HERE.parent / "cluster" / "local.sh"],
            start_new_session=True,
            env=clean | {name: str(value) for name, value in settings.items()},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        while "nodes are up" not in log.read_text():
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.5)
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
        yield f"127.0.0.1:{port}", clean | token | {"RAY_USAGE_STATS_ENABLED": "0"}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        log.unlink()
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_really(nodes: int, arguments: argparse.Namespace, *, seconds: float, seed: int) -> dict[str, Any]:
    """Run benchmarks/driver.py on a cluster of some nodes and return its measurements."""
    with local_nodes(nodes) as (address, environment), tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.yaml"
        subprocess.run(
            [
                sys.executable,
                HERE / "driver.py",
                "--address",
                address,
                "--out",
                result,
                "--seed",
                str(seed),
                "--trials",
                str(arguments.trials),
                "--epochs",
                str(arguments.epochs),
                "--seconds",
                str(seconds),
            ],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return read_yaml(result)


def run_validation(arguments: argparse.Namespace) -> None:
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{'epoch':>9} {'nodes':>5} {'slots':>6} {'measured':>9} {'simulated':>9} {'ratio':>6}  driver")
    for seconds in arguments.seconds:
        file = arguments.out / f"measured-{seconds:g}.yaml"
        if not file.is_file():
            costs = run_really(1, arguments, seconds=seconds, seed=1)
            file.write_text(yaml.safe_dump(costs, sort_keys=False), encoding="utf-8")
        for nodes in arguments.nodes:
            measured = run_really(nodes, arguments, seconds=seconds, seed=0)["seconds"]
            found = simulate(_plan_of(read_yaml(file), arguments, nodes=nodes), nodes * SLOTS)
            ratio = found.seconds / measured
            print(
                f"{seconds:>7g} s {nodes:>5} {nodes * SLOTS:>6} {measured:>7.1f} s {found.seconds:>7.1f} s "
                f"{ratio:>6.2f}  {found.driver_share:.0%} {'' if abs(ratio - 1) <= WANTED else 'MISSED'}",
                flush=True,
            )


def _plan_of(costs: dict[str, Any], arguments: argparse.Namespace, *, nodes: int) -> ClusterPlan:
    # Every node starts as many processes as the measured one, all on the same cores.
    costs["trial"]["start_seconds"] *= nodes
    none = "none: a study of waiting trials has no videos, and writes no checkpoints"
    tree = {
        "study": {"trials": arguments.trials, "scheduler": "asha", "grace_epochs": GRACE_EPOCHS},
        "epochs": arguments.epochs,
        "trial": costs["trial"],
        "driver": costs["driver"],
        "videos": {"source": none, "count": 0},
        "cluster": {"source": none, "gpus_per_node": SLOTS, "network_bytes": 1e12, "storage_bytes": 1e12},
    }
    return ClusterPlan.load(tree)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["simulate", "validate"], default="simulate")
    parser.add_argument("--plan", type=Path, default=HERE / "cluster_plan.yaml")
    parser.add_argument(
        "--costs", type=Path, default=None, help="a driver's costs, of benchmarks/driver.py --out"
    )
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="of the plan")
    parser.add_argument("--gpus", type=int, nargs="+", default=GPUS)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 3, 4], help="to validate on")
    parser.add_argument("--trials", type=int, default=48, help="of the validation")
    parser.add_argument("--epochs", type=int, default=9, help="of the validation")
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[1.0, 0.02], help="that an epoch of it waits"
    )
    parser.add_argument("--out", type=Path, default=None, help="folder of cluster_plan.csv and .png")
    arguments = parser.parse_args()
    # Ended from outside, it still ends the nodes that it started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if arguments.what == "validate":
        arguments.out = arguments.out or Path(tempfile.mkdtemp())
        run_validation(arguments)
    else:
        run_simulation(arguments)


if __name__ == "__main__":
    main()
