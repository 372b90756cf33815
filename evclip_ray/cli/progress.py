"""Progress of a command: bars that disappear in a terminal, plain lines in a file or a pipe."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from evclip_ray.cli import display
from evclip_ray.formatting import duration
from evclip_ray.progress import Pace, reporting_to, stage, time_left
from evclip_ray.termination import received_signal, stop_is_shown

LINE_SECONDS = 60.0
"""Least time between two lines about the same work without a terminal."""
_BAR_WIDTH = 20


class Steps(Protocol):
    """Display of the work of a command. It is a `Progress`.

    Attributes:
        is_live: Whether the display is in a terminal and may change what it has shown.
    """

    is_live: bool

    def __call__(self, step: str, done: int, total: int) -> None:
        """Show that `done` of `total` parts of a step are done. A step without parts has one."""

    def show(self, step: str, done: int, total: int | None, facts: str) -> None:
        """Show a step with facts of the caller's own, such as its rate. `total` is None if it is unknown."""

    def hide(self, step: str) -> None:
        """Remove a step that has ended."""


@contextmanager
def bars(where: Console | None = None) -> Iterator[Steps]:
    """Show the work of a block, also that of `evclip_ray.progress`.

    Args:
        where: Console of the bars; by default standard output. Without a terminal there, lines are written
            to standard error.
    """
    shown = where or display.console
    if not shown.is_terminal:
        steps: Steps = Lines(display.error_console)
        with reporting_to(steps):
            yield steps
        return
    # Results in a file or a pipe must not be redirected to the bars on standard error.
    redirected = where is None or display.console.is_terminal
    with (
        _Live(
            TextColumn("{task.description}", markup=False),
            BarColumn(_BAR_WIDTH),
            TextColumn("{task.fields[count]}", markup=False),
            _Facts(),
            console=shown,
            transient=True,
            redirect_stdout=redirected,
        ) as progress,
        stop_is_shown(),
        reporting_to(steps := Bars(progress)),
    ):
        yield steps


def load_torch() -> None:
    """Import PyTorch and OpenCLIP, and show this stage, because it takes seconds."""
    if "open_clip" in sys.modules:
        return
    with bars(display.error_console), stage("loading PyTorch"):
        import open_clip  # noqa: F401


class _Live(RichProgress):
    """Bars, below a line about the stop of the command once a signal has arrived."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the line and the table of the bars."""
        # The handler of the signal must not print between the bars, which would overwrite its line.
        if received_signal() is not None:
            yield Text("Stopping ...")
        yield self.make_tasks_table(self.tasks)


class _Facts(ProgressColumn):
    """Column of the facts about a step; without any, the time since it began."""

    def render(self, task: Task) -> Text:
        """Return the text of a step."""
        return Text(task.fields["facts"] or duration(int(task.elapsed or 0)))


class Bars:
    """Bars in a terminal, one for each step that is running."""

    is_live = True

    def __init__(self, progress: RichProgress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress, self._clock = progress, clock
        self._tasks: dict[str, TaskID] = {}
        self._paces: dict[str, Pace] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        """See `Steps`."""
        if done >= total:
            self.hide(step)
            return
        now = self._clock()
        pace = self._paces.setdefault(step, Pace(done, now))
        self.show(step, done, total if total > 1 else None, time_left(pace.seconds_left(done, total, now)))

    def show(self, step: str, done: int, total: int | None, facts: str = "") -> None:
        """See `Steps`."""
        count = f"{done:,}/{total:,}" if total else ""
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(step, total=total, count=count, facts=facts)
        self._progress.update(self._tasks[step], completed=done, total=total, count=count, facts=facts)

    def hide(self, step: str) -> None:
        """See `Steps`."""
        self._paces.pop(step, None)
        if step in self._tasks:
            self._progress.remove_task(self._tasks.pop(step))


class _Line(NamedTuple):
    """Lines of a running step: its pace, the time of the last line, and whether there is a second one."""

    pace: Pace
    printed: float
    is_repeated: bool = False


class Lines:
    """A line when a step begins, and then at most one per minute."""

    is_live = False

    def __init__(self, where: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = where, clock
        self._running: dict[str, _Line] = {}
        self._named: dict[str, float] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        """See `Steps`."""
        now = self._clock()
        line = self._running.get(step)
        if done >= total:
            if line is not None and line.is_repeated:
                self._print(f"{step}: {total:,} of {total:,} after {duration(now - line.pace.started)}")
            self.hide(step)
        elif line is None:
            self._begin(step, done, total, now)
        else:
            self._repeat(step, line, done, total, time_left(line.pace.seconds_left(done, total, now)))

    def show(self, step: str, done: int, total: int | None, facts: str = "") -> None:
        """See `Steps`."""
        if step not in self._running:
            self._begin(step, done, total or 1, self._clock())
        else:
            self._repeat(step, self._running[step], done, total, facts)

    def hide(self, step: str) -> None:
        """See `Steps`."""
        self._running.pop(step, None)

    def _begin(self, step: str, done: int, total: int, now: float) -> None:
        self._running[step] = _Line(Pace(done, now), now)
        if total > 1:
            self._print(f"{step}: {done:,} of {total:,}")
        # Trials repeat work without a count.
        elif now - self._named.get(step, -LINE_SECONDS) >= LINE_SECONDS:
            self._named[step] = now
            self._print(f"{step} ...")

    def _repeat(self, step: str, line: _Line, done: int, total: int | None, facts: str) -> None:
        now = self._clock()
        if now - line.printed < LINE_SECONDS:
            return
        self._running[step] = line._replace(printed=now, is_repeated=True)
        amount = f"{done:,} of {total:,}" if total else f"{done:,}"
        self._print(f"{step}: {amount}{facts and f', {facts}'}")

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
