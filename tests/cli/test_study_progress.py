"""Display of a study's trials: what is printed, what is left, and what a resumed study goes on with."""

import io
import math

import pytest

from evclip_ray.cli import display
from evclip_ray.cli.display import PlainConsole
from evclip_ray.cli.progress import Lines, bars
from evclip_ray.cli.study_progress import StudyPace, StudyView, resume_line
from evclip_ray.records import EpochMetrics, TrialRecord, TrialState


class Clock:
    """Clock that a test sets."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def printed(monkeypatch):
    """Return a function that returns the text printed so far."""
    stream = io.StringIO()
    monkeypatch.setattr(display, "console", PlainConsole(file=stream, width=140))
    return stream.getvalue


def trial(number, epoch, *, state=TrialState.RUNNING, error=None, **metrics):
    history = (EpochMetrics({"epoch": epoch, **metrics}),) if epoch else ()
    return TrialRecord(f"trial-{number:04d}", {}, state, error, history)


def end_trial(*, state="complete", error=None, **metrics):
    with bars() as steps:
        view = StudyView(steps, StudyPace(trials=2, epochs=3, concurrent=1))
        view("epoch", trial(0, 1, **metrics))
        view("ended", trial(0, 1, state=TrialState(state), error=error, **metrics))


def test_ended_trial_is_printed_with_its_score(printed):
    end_trial(best_epoch=1, best_val_top1=0.5)
    assert "trial-0000  complete  epoch   1  val top-1 0.500 (best so far 0.500)" in printed()


def test_trial_without_finished_epoch_shows_no_score(printed):
    end_trial(state="diverged", best_epoch=0, best_val_top1=0.0)
    assert "no finished epoch" in printed()
    assert "0.000" not in printed()


def test_error_with_brackets_is_printed_verbatim(printed):
    end_trial(state="failed", error="KeyError: '[/x]' is not in [bold]")
    assert "KeyError: '[/x]' is not in [bold]" in printed()


def test_ten_trials_at_once_print_one_line_per_minute(printed, clock):
    steps = Lines(PlainConsole(file=io.StringIO(), width=140), clock)
    view = StudyView(steps, StudyPace(trials=16, epochs=20, concurrent=10, clock=clock), clock)
    for epoch in range(1, 5):
        for number in range(10):
            clock.now += 3.0
            view("epoch", trial(number, epoch, val_top1=0.25, seconds=30.0))
    lines = printed().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(
        "trials 0/16, 10 running, about 14 min left: trial-0000 epoch 4/20, top-1 0.250, 30 s/epoch;"
    )
    assert lines[1].endswith("; 2 more")


def test_nothing_is_estimated_before_the_first_epoch(clock):
    pace = StudyPace(trials=4, epochs=10, concurrent=2, clock=clock)
    clock.now = 100.0
    assert pace.seconds_left() is None
    assert pace.facts == ""


def test_estimate_counts_epochs_to_come_by_slots(clock):
    pace = StudyPace(trials=4, epochs=10, concurrent=2, clock=clock)
    for number in (0, 1):
        pace.note_epoch(trial(number, 1, seconds=2.0))
    # 9 + 9 + 2 x 10 epochs of 2 s in two slots.
    assert pace.seconds_left() == pytest.approx(38.0)
    clock.now = 4.0
    pace.note_epoch(trial(0, 2, seconds=2.0))
    # The time between two epochs counts, not what an epoch says of itself: 8 s for three epochs.
    assert pace.seconds_left() == pytest.approx(8 / 3 * (8 + 9 + 20) / 2)


def test_last_trial_is_not_divided_among_the_slots(clock):
    pace = StudyPace(trials=1, epochs=10, concurrent=8, clock=clock)
    pace.note_epoch(trial(0, 4, seconds=3.0))
    assert pace.seconds_left() == pytest.approx(18.0)


def test_trials_to_come_are_as_long_as_ended_ones(clock):
    pace = StudyPace(trials=3, epochs=20, concurrent=1, clock=clock)
    pace.note_epoch(trial(0, 4, seconds=1.0))
    pace.note_end(trial(0, 4, state=TrialState.STOPPED))
    assert pace.seconds_left() == pytest.approx(8.0)


def test_time_budget_bounds_the_estimate(clock):
    pace = StudyPace(trials=math.inf, epochs=20, concurrent=1, deadline=600.0, clock=clock)
    assert pace.seconds_left() is None
    clock.now = 60.0
    pace.note_epoch(trial(0, 1, seconds=50.0))
    assert pace.seconds_left() == 540.0


def test_resume_line_says_what_goes_on():
    ended = [trial(number, 20, state=TrialState.COMPLETE) for number in (0, 1)]
    begun = [trial(3, 4), trial(4, 0)]
    assert resume_line([*ended, *begun], 7) == (
        "2 finished trials are kept, trial-0003 goes on at epoch 5, 4 are to come"
    )
    assert resume_line([ended[0]], 2) == "1 finished trial is kept, 1 is to come"
    assert resume_line([ended[0]], math.inf) == "1 finished trial is kept"
    assert resume_line([], 7) is None


def test_resume_line_counts_failed_trials_that_run_again():
    trials = [trial(0, 20, state=TrialState.COMPLETE), trial(1, 0, state=TrialState.FAILED, error="x")]
    assert resume_line(trials, 2, retry_failed=True) == (
        "1 finished trial is kept, 1 failed trial runs again, 0 are to come"
    )
