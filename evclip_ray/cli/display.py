"""What a person sees while work goes on: bars, one line a trial, tables."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

console = Console(highlight=False)
if not console.is_terminal:
    # A file or a pipe has no width; a table cut at 80 columns would lose its numbers.
    console = Console(highlight=False, width=140)

_MARKS = {"stopped": " stopped", "diverged": " diverged", "running": " running", "paused": " paused"}
_VAGUE = {"depth", "heads", "width", "name", "window", "tokens"}


@contextmanager
def bars() -> Iterator[Progress]:
    """Progress bars on a terminal; nothing where the output is a file or a pipe."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress


class DecodeView:
    """A bar for each thing that is done to videos, such as "decoding train"."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, doing: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        if doing not in self._tasks:
            self._tasks[doing] = self._progress.add_task(doing, total=total)
        self._progress.update(self._tasks[doing], completed=done, total=total)


class StudyView:
    """A bar of trials, a bar of epochs, and a line for each trial that ends."""

    def __init__(self, progress: Progress, *, trials: float, epochs: int) -> None:
        self._progress = progress
        # A bar without an end, where only the time limits the trials.
        self._ended = progress.add_task("trials", total=trials if math.isfinite(trials) else None)
        self._running: dict[str, TaskID] = {}
        self._epochs = epochs
        self._best = 0.0

    def __call__(self, event: str, trial: str, metrics: Mapping[str, Any]) -> None:
        """Show what happened to a trial."""
        if event == "epoch":
            if trial not in self._running:
                self._running[trial] = self._progress.add_task(trial, total=self._epochs)
            self._progress.update(self._running[trial], completed=metrics["epoch"])
            return
        if trial in self._running:
            self._progress.remove_task(self._running.pop(trial))
        self._progress.advance(self._ended)
        top1 = float(metrics.get("best_val_top1") or 0.0)
        self._best = max(self._best, top1)
        scored = f"val top-1 {top1:.3f} (best so far {self._best:.3f})"
        said = metrics.get("error") or (scored if metrics.get("best_epoch") else "no finished epoch")
        console.print(
            f"{trial}  {metrics['state']:<9} epoch {metrics.get('epoch', 0):>3}  {said}",
            soft_wrap=True, markup=False,
        )  # fmt: skip


def leaderboard_table(rows: Sequence[Mapping[str, Any]], *, most: int = 10) -> Table:
    """The best trials as a table: validation top-1 with its 95 % interval, and the searched settings."""
    table = Table(
        title="Leaderboard on the validation split", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0)
    )
    searched = sorted({path for row in rows for path in row["overrides"]})
    seeds = ("mean of seeds",) if any(row["point_seeds"] > 1 for row in rows) else ()
    for name in ("trial", "top-1 (95 %)", *seeds, "loss", "epochs", *(_brief(p, searched) for p in searched)):
        table.add_column(name, no_wrap=True)
    for row in rows[:most]:
        table.add_row(
            row["trial"].removeprefix("trial-"),
            _top1(row),
            *([_mean_of_seeds(row)] if seeds else []),
            f"{row['val_loss']:.2f}" if math.isfinite(row["val_loss"]) else "-",
            f"{row['epochs']}{_MARKS.get(row['state'], '')}",
            *(escape(short(row["overrides"].get(path, "-"))) for path in searched),
        )  # fmt: skip
    return table


def _top1(row: Mapping[str, Any]) -> str:
    if row["state"] == "failed":
        return "failed"
    # Without a finished epoch there is no score, which is not a score of zero.
    interval = f"{row['val_top1_low']:.2f}-{row['val_top1_high']:.2f}"
    return f"{row['val_top1']:.3f} ({interval})" if row["best_epoch"] else "-"


def _mean_of_seeds(row: Mapping[str, Any]) -> str:
    if row["point_seeds"] < 2:
        return "-"
    interval = f"{row['point_top1_low']:.2f}-{row['point_top1_high']:.2f}"
    return f"{row['point_top1']:.3f} of {row['point_seeds']} ({interval})"


def zero_shot_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """Zero-shot CLIP beside the trials, over the conditions that they ran under."""
    scores = sorted({row["zero_shot_top1"] for row in rows if not math.isnan(row["zero_shot_top1"])})
    listed = ", ".join(f"{score:.3f}" for score in scores) or "not scored"
    return f"zero-shot CLIP on the same views: top-1 {listed}"


def rows_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of equal keys as a table: a column a key, numbers to the right."""
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name, value in rows[0].items():
        justify: Literal["left", "right"] = "left" if isinstance(value, str) else "right"
        table.add_column(name.replace("_", " "), justify=justify)
    for row in rows:
        table.add_row(*("-" if value is None else escape(short(value)) for value in row.values()))
    return table


def short(value: Any) -> str:
    """A setting in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _brief(path: str, searched: Sequence[str]) -> str:
    """The shortest tail of a path that no other searched path ends with: `lr`, `mask.depth`."""
    parts = path.split(".")
    for length in range(1, len(parts)):
        tail = ".".join(parts[-length:])
        if sum(other == tail or other.endswith(f".{tail}") for other in searched) == 1 and tail not in _VAGUE:
            return tail
    return path
