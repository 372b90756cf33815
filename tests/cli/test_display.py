import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from evclip_ray.cli import display
from evclip_ray.cli.display import PlainConsole, StudyView, bars
from evclip_ray.records import EpochMetrics, TrialRecord, TrialState
from evclip_ray.tuning.leaderboard import leaderboard
from evclip_ray.tuning.study_folder import StudyFolder


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


def test_narrow_leaderboard_has_one_column_of_settings(monkeypatch):
    study = Path(__file__).parents[1] / "data_files" / "old_study"
    many = {f"method.mask.{name}": 0.12345 for name in ("depth", "heads", "width", "window", "mlp_ratio")}
    rows = [
        dataclasses.replace(row, overrides={**many, **row.overrides})
        for row in leaderboard(StudyFolder(study).trials())
    ]
    for width, as_one in ((80, True), (160, False)):
        monkeypatch.setattr(display, "console", Console(width=width, record=True))
        display.console.print(display.leaderboard_table(rows))
        text = display.console.export_text()
        assert ("settings" in text) is as_one
        assert text.count("0.123") == len(many) * len(rows)
        assert "0.500 (0.19 to 0.81)" in text
