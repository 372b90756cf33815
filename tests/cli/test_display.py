import io

import pytest
from rich.console import Console

from evclip_ray.cli import display
from evclip_ray.cli.display import StudyView, bars


@pytest.fixture
def told(monkeypatch):
    """What was printed so far."""
    printed = io.StringIO()
    monkeypatch.setattr(display, "console", Console(file=printed, width=140, highlight=False))
    return printed.getvalue


def ended(*, state="complete", **metrics):
    with bars() as progress:
        view = StudyView(progress, trials=2, epochs=3)
        view("epoch", "trial-0000", {"epoch": 1})
        view("ended", "trial-0000", {"state": state, "epoch": 1, **metrics})


def test_a_trial_that_ends_is_said_with_its_score(told):
    ended(best_epoch=1, best_val_top1=0.5)
    assert "trial-0000  complete  epoch   1  val top-1 0.500 (best so far 0.500)" in told()


def test_a_trial_without_a_finished_epoch_has_no_score_of_zero(told):
    ended(state="diverged", best_epoch=0, best_val_top1=0.0)
    assert "no finished epoch" in told()
    assert "0.000" not in told()


def test_an_error_with_brackets_is_printed_as_it_is(told):
    ended(state="failed", error="KeyError: '[/x]' is not in [bold]")
    assert "KeyError: '[/x]' is not in [bold]" in told()
