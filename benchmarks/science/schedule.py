"""Many experiments in several processes: resumable, with a progress bar and a time budget.

A results file has one JSON line per finished experiment, and lines are only ever appended. An experiment
whose key is in the file is skipped. A killed one is not in it and runs again from its last checkpoint.
"""

import dataclasses
import gzip
import json
import multiprocessing
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from evclip_ray.artifacts import replacing

from .experiments import Experiment, preparation_seconds
from .settings import WorldSet

RESULTS = "results.jsonl"
PUBLISHED = "results.jsonl.gz"
"""Compressed records of the page, in the folder of the page. Unpacked, the file is a results file."""

Record = dict[str, Any]


def read_records(out: Path) -> dict[str, Record]:
    """Return the records of a results file by key. A last line that a kill cut short is ignored."""
    path = out / RESULTS
    records: dict[str, Record] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        records[record["key"]] = record
    return records


def append_record(out: Path, record: Record) -> None:
    """Add a line to the results file."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / RESULTS
    # A line that was cut short must not swallow the next one.
    is_cut = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as stream:
        stream.write(("\n" if is_cut else "") + json.dumps(record) + "\n")


def publish_records(folder: Path, records: Iterable[Record]) -> Path:
    """Write records in the order of their keys, compressed, and return the path.

    Args:
        folder: Folder of the page, `docs/science`.
        records: Records that the page reads.
    """
    lines = [json.dumps(record) + "\n" for record in sorted(records, key=lambda record: str(record["key"]))]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PUBLISHED
    with replacing(path) as temporary:
        # Without a time of writing, equal records are equal bytes.
        temporary.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    return path


@dataclasses.dataclass(frozen=True)
class Plan:
    """Experiments that are missing, with their expected time on one core.

    Attributes:
        missing: Experiments to run, in order.
        worlds: Data sets that they need, in order of first use.
        seconds: Expected time of all, including the videos.
    """

    missing: Sequence[Experiment]
    worlds: Sequence[WorldSet]
    seconds: float

    @classmethod
    def of(cls, experiments: Iterable[Experiment], records: Mapping[str, Record]) -> "Plan":
        """Return the plan for the experiments that have no record."""
        missing = [experiment for experiment in experiments if experiment.key not in records]
        worlds = list(dict.fromkeys(experiment.world for experiment in missing))
        seconds = sum(map(preparation_seconds, worlds)) + sum(each.seconds for each in missing)
        return cls(missing, worlds, seconds)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Numbers of finished, failed and unfinished experiments, and the errors."""

    done: int
    left: int
    errors: Mapping[str, str]


def run_all(
    plan: Plan, *, out: Path, cache: Path, jobs: int, device: str, budget_minutes: float | None = None
) -> Outcome:
    """Run the experiments of a plan in `jobs` processes. Data sets are prepared when they are first needed.

    Args:
        plan: Experiments.
        out: Folder of the results.
        cache: Folder of videos and features.
        jobs: Number of processes.
        device: "cpu" or "cuda"; all processes share one GPU.
        budget_minutes: Time after which nothing starts, and a training stops after its epoch.
    """
    from . import execute

    deadline = float("inf") if budget_minutes is None else time.time() + 60 * budget_minutes
    place = execute.Place(out, cache, deadline)
    waiting, worlds = list(plan.missing), dict.fromkeys(plan.worlds, "missing")
    running: dict[Future[Any], Experiment | WorldSet] = {}
    errors: dict[str, str] = {}
    done = 0
    context = multiprocessing.get_context("spawn")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with (
        ProcessPoolExecutor(jobs, context, initializer=execute.start_worker, initargs=(device,)) as pool,
        Progress(*columns) as progress,
    ):
        bar = _Bar(progress, plan.seconds, jobs)
        try:
            while waiting or running:
                while len(running) < jobs and time.time() < deadline:
                    chosen = next_task(waiting, worlds)
                    if chosen is None:
                        break
                    if isinstance(chosen, WorldSet):
                        worlds[chosen] = "running"
                        running[pool.submit(execute.prepare_world, chosen, place)] = chosen
                    else:
                        waiting.remove(chosen)
                        running[pool.submit(execute.execute, chosen, place)] = chosen
                if not running:
                    break
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    task = running.pop(future)
                    problem = future.exception()
                    if isinstance(task, WorldSet):
                        worlds[task] = "failed" if problem else "ready"
                        if problem:
                            errors[task.name] = f"{type(problem).__name__}: {problem}"
                            waiting = [each for each in waiting if each.world != task]
                        bar.finish(task.name, preparation_seconds(task), len(waiting))
                        continue
                    if problem is None:
                        append_record(out, future.result())
                        done += 1
                    elif not isinstance(problem, execute.OutOfTime):
                        errors[task.name] = f"{type(problem).__name__}: {problem}"
                    bar.finish(task.name, task.seconds, len(waiting))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Outcome(done, len(plan.missing) - done - len(errors), errors)


def next_task(waiting: Sequence[Experiment], worlds: Mapping[WorldSet, str]) -> Experiment | WorldSet | None:
    """Return the first experiment whose videos are ready, or an earlier one's videos; None if all must wait.

    Args:
        waiting: Experiments in order.
        worlds: State of each data set: missing, running, ready or failed.
    """
    for experiment in waiting:
        if worlds[experiment.world] == "ready":
            return experiment
        if worlds[experiment.world] == "missing":
            return experiment.world
    return None


class _Bar:
    """Progress by expected time; the time left follows from the speed so far."""

    def __init__(self, progress: Progress, seconds: float, jobs: int) -> None:
        self.progress, self.total, self.done, self.jobs = progress, seconds, 0.0, jobs
        self.started = time.time()
        self.task = progress.add_task("starting", total=seconds)

    def finish(self, name: str, seconds: float, waiting: int) -> None:
        self.done += seconds
        elapsed = time.time() - self.started
        left = elapsed * (self.total - self.done) / self.done
        text = f"{waiting} waiting, about {left / 60:.0f} min left"
        self.progress.update(self.task, completed=self.done, description=text)
        # A file or a pipe shows no bar, and gets a line for each experiment.
        self.progress.console.print(f"{elapsed / 60:6.1f} min  {name}  ({text})", highlight=False)
