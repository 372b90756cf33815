import io

import pytest

from evclip_ray.cli import display
from evclip_ray.cli.display import PlainConsole, StudyView, bars
from evclip_ray.records import EpochMetrics, TrialRecord, TrialState


@pytest.fixture
def printed(monkeypatch):
    """Return a function that returns the text printed so far."""
    stream = io.StringIO()
    monkeypatch.setattr(display, "console", PlainConsole(file=stream, width=140))
    return stream.getvalue


def end_trial(*, state="complete", error=None, **metrics):
    with bars() as progress:
        view = StudyView(progress, trials=2, epochs=3)
        first = EpochMetrics({"epoch": 1, **metrics})
        view("epoch", TrialRecord("trial-0000", {}, history=(first,)))
        view("ended", TrialRecord("trial-0000", {}, TrialState(state), error, (first,)))


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
