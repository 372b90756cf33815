"""Cost of the study driver per trial and epoch, and the time that a trial waits.

The study is real: Tuner, searcher, scheduler, callbacks and study folder, with the shipped space `ev_clip`.
Only training is replaced. In each epoch a trial sleeps, writes its history and reports a simulated learning
curve. This measures scheduling without arithmetic, with more trials at once than the machine has cores.
The driver's time is its time outside of `ray.wait`. Least squares attribute it to the events of each step.
The time to load networks is not included.

Run: python benchmarks/driver.py [--trials 60] [--epochs 20] [--seconds 0.2] [--slots 2] [--out costs.yaml]
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import ray
import yaml
from ray import tune
from ray.tune.execution.tune_controller import TuneController
from simulation.curves import Curves

from evclip_ray.cluster import connect
from evclip_ray.objective import OBJECTIVE
from evclip_ray.tuning import tuner
from evclip_ray.tuning.search_space import SearchSpace, read_space
from evclip_ray.tuning.space_files import find_space
from evclip_ray.tuning.tuner import StudyRun

TIMES = "times.json"
GRACE_EPOCHS = 2


def waiting_trial(seconds: float, epochs: int, seed: int) -> Callable[[dict[str, Any]], None]:
    """Return a trainable whose epochs sleep. It records its start and the time of each report."""

    def run(config: dict[str, Any]) -> None:
        entered = time.time()
        folder = Path(config["study"]) / "trials" / config["folder"]
        curve = Curves(epochs=epochs, seed=seed).of(int(config["folder"].rpartition("-")[2]))
        history: list[dict[str, Any]] = []
        worked, reported = [], []
        returned = time.perf_counter()
        for epoch in range(1, epochs + 1):
            time.sleep(seconds)
            history.append(_metrics(epoch, float(curve[epoch - 1]), seconds))
            lines = [json.dumps(metrics) for metrics in history]
            (folder / "history.jsonl").write_text("\n".join(lines) + "\n")
            called = time.perf_counter()
            worked.append(called - returned)
            if epoch == epochs:
                (folder / TIMES).write_text(json.dumps([entered, worked, reported]))
            tune.report({**history[-1], OBJECTIVE: history[-1]["best_val_top1"]})
            returned = time.perf_counter()
            reported.append(returned - called)
            (folder / TIMES).write_text(json.dumps([entered, worked, reported]))

    return run


def _metrics(epoch: int, top1: float, seconds: float) -> dict[str, Any]:
    """Return as many numbers per epoch as a run writes."""
    others = (
        "train_loss",
        "train_cross_entropy",
        "train_consistency",
        "grad_norm",
        "lr",
        "step_seconds",
        "mask_mean",
        "mask_std",
        "mask_coverage",
        "mask_drift",
        "zero_shot_top1",
    )
    return {
        "epoch": epoch,
        "val_top1": top1,
        "val_top5": top1,
        "val_loss": 1 - top1,
        "best_val_top1": top1,
        "best_val_loss": 1 - top1,
        "best_epoch": epoch,
        "val_videos": 100,
        "leaking_rows": 0,
        "train_seconds": seconds,
        "seconds": seconds,
        **dict.fromkeys(others, 0.123456789),
    }


class Stopwatch:
    """Time of the driver in each of its steps, with the events of the step."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []
        """Seconds, results, starts, new trials, new x earlier trials, ended trials, ended x epochs."""
        self.begun_at: list[float] = []
        self.first = self.last = 0.0
        self._waited, self._results, self._started, self._epochs = 0.0, 0, 0, 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Time the driver of every study that runs within the block."""
        step, add, wait = TuneController.step, TuneController.add_trial, ray.wait
        result, started = TuneController._process_trial_result, TuneController._actor_started

        def timed_wait(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return wait(*args, **options)
            finally:
                self._waited += time.perf_counter() - began

        def timed_add(controller: Any, trial: Any) -> None:
            self.begun_at.append(time.time())
            add(controller, trial)

        def counted_result(controller: Any, *args: Any) -> Any:
            self._results += 1
            return result(controller, *args)

        def counted_start(controller: Any, *args: Any, **options: Any) -> Any:
            self._started += 1
            return started(controller, *args, **options)

        with (
            mock.patch.object(ray, "wait", timed_wait),
            mock.patch.object(TuneController, "add_trial", timed_add),
            mock.patch.object(TuneController, "_process_trial_result", counted_result),
            mock.patch.object(TuneController, "_actor_started", counted_start),
            mock.patch.object(TuneController, "step", lambda controller: self._step(controller, step)),
        ):
            yield

    def _step(self, controller: Any, step: Callable[[Any], None]) -> None:
        before, ended = len(controller._trials), len(controller._stopped_trials)
        self._waited, self._results, self._started = 0.0, 0, 0
        began = time.perf_counter()
        self.first = self.first or time.time()
        step(controller)
        seconds = time.perf_counter() - began - self._waited
        begun = len(controller._trials) - before
        ends = len(controller._stopped_trials) - ended
        self._epochs += self._results
        if begun or ends or self._results or self._started:
            self.last = time.time()
            self.rows.append(
                (seconds, self._results, self._started, begun, begun * before, ends, ends * self._epochs)
            )

    def costs(self) -> dict[str, float]:
        """Return the seconds of each kind of event by least squares, clipped at 0."""
        names = (
            "result_seconds",
            "started_seconds",
            "begin_seconds",
            "begin_per_trial",
            "end_seconds",
            "end_per_epoch",
        )
        table = np.array(self.rows)
        solution = np.linalg.lstsq(table[:, 1:], table[:, 0])[0]
        return dict(zip(names, np.maximum(solution, 0).tolist(), strict=True))


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A study whose trials sleep `seconds` per epoch. `seed` draws their learning curves."""

    trials: int
    epochs: int
    seconds: float
    seed: int = 0
    scheduler: str = "asha"

    @property
    def study(self) -> dict[str, Any]:
        """Section `study` of the search space."""
        return {
            "trials": self.trials,
            "scheduler": self.scheduler,
            "cpus": 1,
            "memory_gb": 0.2,
            "gpus": 0,
            "seed": self.seed,
            "grace_epochs": GRACE_EPOCHS,
        }

    def space(self, manifest: Path) -> SearchSpace:
        """Return the shipped space of EV-CLIP with its seven searched settings."""
        fixed = {"data.manifest": str(manifest), "optim.epochs": self.epochs, "backbone.pretrained": "random"}
        return read_space(find_space("ev_clip"), fixed, study=self.study)

    def run(self, machines: list[Mapping[str, float]], folder: Path) -> float:
        """Run the study and return its seconds.

        Raises:
            RuntimeError: Trials are missing.
        """
        trial = waiting_trial(self.seconds, self.epochs, self.seed)
        run = StudyRun(self.space(_manifest(folder)), folder / "study", cache=folder / "cache")
        plan = run.plan(machines)
        run.claim()
        with mock.patch.object(tuner, "run_trial", trial):
            began = time.time()
            outcome = run.run(plan, lambda kind, name, metrics: None)
            seconds = time.time() - began
        if outcome.missing:
            raise RuntimeError(f"{outcome.missing} of {self.trials} trials are missing")
        return seconds


def _manifest(folder: Path) -> Path:
    """Write a manifest of empty files, which no trial opens."""
    lines = ["path,label,split"]
    for number in range(8):
        (folder / f"{number}.mp4").touch()
        lines.append(f"{number}.mp4,{'ab'[number % 2]},{'train' if number < 4 else 'val'}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder / "manifest.csv"


def wait_seconds_per_future() -> float:
    """Return the seconds that one more running trial adds to finding the next event."""

    @ray.remote(num_cpus=0)
    class Sleeper:
        async def sleep(self, seconds: float) -> None:
            import asyncio

            await asyncio.sleep(seconds)

    sleeper = Sleeper.options(max_concurrency=1000).remote()
    taken = {}
    for count in (10, 900):
        waiting = [sleeper.sleep.remote(600) for _ in range(count)]
        ready = ray.put(0)
        found = []
        for _ in range(20):
            began = time.perf_counter()
            ray.wait([*set(waiting), ready], num_returns=1, timeout=1)
            found.append(time.perf_counter() - began)
        taken[count] = statistics.median(found)
    ray.kill(sleeper)
    return max(0.0, (taken[900] - taken[10]) / 890)


def measure(study: Waiting, machines: list[Mapping[str, float]], folder: Path) -> dict[str, Any]:
    """Run a study once. Return the sections `trial` and `driver` of a cluster plan, and its seconds."""
    watch = Stopwatch()
    began = time.time()
    with watch.running():
        study.run(machines, folder)
    ended = time.time()
    driver = watch.costs()
    driver["startup_seconds"] = watch.first - began
    driver["finish_seconds"] = ended - watch.last
    driver["result_per_trial"] = wait_seconds_per_future()
    at_once = sum(int(machine.get("CPU", 0)) for machine in machines)
    source = (
        f"benchmarks/driver.py: {study.trials} trials, {at_once} at once, "
        f"of up to {study.epochs} epochs that wait {study.seconds} s"
    )
    trial = _trial_costs(watch, driver, folder / "study" / "trials", cold=at_once)
    return {
        "trial": {"source": source, **trial},
        "driver": {"source": source, **driver},
        "seconds": ended - began,
    }


def _trial_costs(
    watch: Stopwatch, driver: Mapping[str, float], trials: Path, *, cold: int
) -> dict[str, float]:
    """Return medians over all trials. The first `cold` trials start a process."""
    times = [json.loads((folder / TIMES).read_text()) for folder in sorted(trials.glob("trial-*"))]
    until = [entered - begun for (entered, _, _), begun in zip(times, watch.begun_at, strict=True)]
    turnaround = statistics.median(seconds for _, _, reported in times for seconds in reported)
    return {
        "start_seconds": statistics.median(until[:cold]) - driver["started_seconds"],
        "next_seconds": max(0.0, statistics.median(until[cold:]) - driver["started_seconds"]),
        "epoch_seconds": statistics.median(seconds for _, worked, _ in times for seconds in worked),
        "report_seconds": max(0.0, turnaround - driver["result_seconds"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.2, help="duration of an epoch")
    parser.add_argument("--slots", type=int, default=2, help="trials at once on this machine")
    parser.add_argument("--address", default=None, help="running Ray cluster, whose CPUs are the slots")
    parser.add_argument("--seed", type=int, default=0, help="seed of the points and the learning curves")
    parser.add_argument("--scheduler", default="asha", choices=["asha", "none"])
    parser.add_argument("--out", type=Path, default=None, help="a YAML file for the sections measured")
    arguments = parser.parse_args()
    study = Waiting(
        arguments.trials, arguments.epochs, arguments.seconds, arguments.seed, arguments.scheduler
    )
    ray_of = connect(arguments.address) if arguments.address else connect(num_cpus=arguments.slots)
    with tempfile.TemporaryDirectory() as folder, ray_of as machines:
        costs = measure(study, machines, Path(folder))
    text = yaml.safe_dump(costs, sort_keys=False, width=100)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
