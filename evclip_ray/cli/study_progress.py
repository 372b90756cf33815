"""Progress of a study: its running trials, the line of each trial that ends, and the time that is left."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from evclip_ray.cli import display
from evclip_ray.cli.progress import LINE_SECONDS, Steps
from evclip_ray.formatting import counted
from evclip_ray.objective import OBJECTIVE
from evclip_ray.progress import time_left
from evclip_ray.records import TrialRecord, TrialState

if TYPE_CHECKING:
    from evclip_ray.tuning.plan import StudyPlan

_MOST_LISTED = 8
"""Running trials that one line lists."""


@dataclasses.dataclass
class _Running:
    """Running trial: its last epoch, and the time and number of the epochs that this call has measured."""

    epoch: int
    top1: float
    seconds: float
    measured: int
    at: float

    @property
    def facts(self) -> str:
        top1 = "" if math.isnan(self.top1) else f"top-1 {self.top1:.3f}, "
        return f"{top1}{self.seconds / self.measured:.2g} s/epoch"


class StudyPace:
    """Trials of a study's call, and the time until the last one has ended.

    Args:
        trials: Trials that remain to be run; infinite if only the time limits them.
        epochs: Epochs of a complete trial.
        concurrent: Trials at the same time.
        deadline: End of the study's time on `clock`; infinite without a limit.
        clock: Time in seconds.
    """

    def __init__(
        self,
        *,
        trials: float,
        epochs: int,
        concurrent: int,
        deadline: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trials, self.epochs = trials, epochs
        self._concurrent, self._deadline, self._clock = concurrent, deadline, clock
        self.running: dict[str, _Running] = {}
        self._lengths: list[int] = []
        self.num_ended = 0
        self._seconds, self._measured = 0.0, 0

    def note_epoch(self, record: TrialRecord) -> None:
        """Take in an epoch of a trial."""
        now, last = self._clock(), record.last
        before = self.running.get(record.trial)
        # The first epoch has measured itself. From then on the time between two epochs counts, which
        # contains the checkpoint and the report.
        seconds = last.number("seconds", 0.0) if before is None else now - before.at
        measured = 1 if before is None else max(1, last.epoch - before.epoch)
        self._seconds, self._measured = self._seconds + seconds, self._measured + measured
        if before is not None:
            seconds, measured = seconds + before.seconds, measured + before.measured
        self.running[record.trial] = _Running(last.epoch, last.val_top1, seconds, measured, now)

    def note_end(self, record: TrialRecord) -> None:
        """Take in the end of a trial."""
        self.running.pop(record.trial, None)
        self.num_ended += 1
        if record.state.has_final_score and record.last.epoch:
            self._lengths.append(record.last.epoch)

    def seconds_left(self) -> float | None:
        """Return the time until the study's call ends; None before an epoch was measured.

        Trials that have not begun are expected to be as long as those that have ended, on average.
        """
        until_deadline = self._deadline - self._clock()
        if not self._measured or math.isinf(self.trials):
            return until_deadline if math.isfinite(until_deadline) and self._measured else None
        usual = sum(self._lengths) / len(self._lengths) if self._lengths else float(self.epochs)
        epochs = [
            (usual if trial.epoch < usual else self.epochs) - trial.epoch for trial in self.running.values()
        ]
        to_come = max(0.0, self.trials - self.num_ended - len(epochs))
        slots = max(1.0, min(self._concurrent, len(epochs) + to_come))
        # The longest running trial is not divided among the slots.
        longest = max([*epochs, usual if to_come else 0.0])
        needed = max((sum(epochs) + to_come * usual) / slots, longest)
        return max(0.0, min(self._seconds / self._measured * needed, until_deadline))

    @property
    def facts(self) -> str:
        """Number of running trials, and the time that is left."""
        running = f"{len(self.running)} running" if self.running else ""
        return ", ".join(fact for fact in (running, time_left(self.seconds_left())) if fact)

    def line(self) -> str:
        """Return all facts in one line."""
        ended = (
            f"{self.num_ended} ended" if math.isinf(self.trials) else f"{self.num_ended}/{self.trials:.0f}"
        )
        listed = [
            f"{name} epoch {trial.epoch}/{self.epochs}, {trial.facts}"
            for name, trial in list(self.running.items())[:_MOST_LISTED]
        ]
        more = len(self.running) - len(listed)
        return f"trials {ended}, {self.facts}: " + "; ".join([*listed, *([f"{more} more"] if more else [])])


class StudyView:
    """Display of a study's trials: bars in a terminal, else a line per minute; and a line for each end.

    Args:
        steps: Display of the command.
        pace: Trials of the study's call.
        clock: Time in seconds.
    """

    def __init__(self, steps: Steps, pace: StudyPace, clock: Callable[[], float] = time.monotonic) -> None:
        self._steps, self._pace, self._clock = steps, pace, clock
        self._printed = clock()
        self._best = 0.0
        self._show_trials()

    def __call__(self, event: str, record: TrialRecord) -> None:
        """Show an event of a trial; see `OnEvent`."""
        if event == "epoch":
            self._pace.note_epoch(record)
            self._show_epoch(record.trial)
        else:
            self._pace.note_end(record)
            self._steps.hide(record.trial)
            self._print_end(record)
        self._show_trials()

    def close(self) -> None:
        """Remove the bars of a study whose call has ended."""
        for name in ("trials", *self._pace.running):
            self._steps.hide(name)

    def _show_epoch(self, name: str) -> None:
        if self._steps.is_live:
            trial = self._pace.running[name]
            self._steps.show(name, trial.epoch, self._pace.epochs, trial.facts)
        elif self._clock() - self._printed >= LINE_SECONDS:
            self._printed = self._clock()
            display.console.print(self._pace.line(), soft_wrap=True)

    def _show_trials(self) -> None:
        if not self._steps.is_live:
            return
        if self._pace.num_ended >= self._pace.trials:
            self._steps.hide("trials")
        elif math.isinf(self._pace.trials):
            # If only a time budget limits the trials, the bar has no end.
            facts = [f"{self._pace.num_ended} ended", self._pace.facts]
            self._steps.show("trials", 0, None, ", ".join(fact for fact in facts if fact))
        else:
            self._steps.show("trials", self._pace.num_ended, int(self._pace.trials), self._pace.facts)

    def _print_end(self, record: TrialRecord) -> None:
        # Tune's result has the objective of the study.
        last = record.last
        top1 = last.number(OBJECTIVE, last.best_val_top1)
        self._best = max(self._best, top1)
        scored = f"val top-1 {top1:.3f} (best so far {self._best:.3f})"
        result = record.error or (scored if last.best_epoch else "no finished epoch")
        display.console.print(
            f"{record.trial}  {record.state:<9} epoch {last.epoch:>3}  {result}", soft_wrap=True
        )


def study_view(steps: Steps, plan: "StudyPlan", *, deadline: float | None) -> StudyView:
    """Return the display of a planned study.

    Args:
        steps: Display of the command.
        plan: Plan of the study's call.
        deadline: End of its time on the clock of `time.monotonic`; None without a limit.
    """
    pace = StudyPace(
        trials=plan.missing,
        epochs=plan.epochs,
        concurrent=plan.concurrent,
        deadline=math.inf if deadline is None else deadline,
    )
    return StudyView(steps, pace)


def resume_line(trials: Iterable[TrialRecord], total: float, *, retry_failed: bool = False) -> str | None:
    """Return the line about the trials that a resumed study keeps and continues; None if none has begun.

    Args:
        trials: Trials of the study.
        total: Number of trials in total; infinite if only the time limits them.
        retry_failed: Whether failed trials run again.
    """
    listed = list(trials)
    if not listed:
        return None
    failed = sum(trial.state is TrialState.FAILED for trial in listed) if retry_failed else 0
    ended = sum(trial.state.has_ended for trial in listed) - failed
    # A trial without a finished epoch starts again.
    begun = [trial for trial in listed if not trial.state.has_ended and trial.last.epoch]
    parts = [f"{counted(ended, 'finished trial')} {'is' if ended == 1 else 'are'} kept", *_going_on(begun)]
    if failed:
        parts.append(f"{counted(failed, 'failed trial')} {'runs' if failed == 1 else 'run'} again")
    if math.isfinite(total):
        to_come = max(0, int(total) - ended - len(begun) - failed)
        parts.append(f"{to_come} {'is' if to_come == 1 else 'are'} to come")
    return ", ".join(parts)


def _going_on(begun: Sequence[TrialRecord]) -> list[str]:
    shown = [f"{trial.trial} goes on at epoch {trial.last.epoch + 1}" for trial in begun[:_MOST_LISTED]]
    more = len(begun) - len(shown)
    return [*shown, f"{more} more go on"] if more else shown
