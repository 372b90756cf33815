"""Progress of a command in a terminal and in a file."""

import io
import re
import signal
import sys
from importlib.machinery import ModuleSpec

import pytest

from evclip_ray import termination
from evclip_ray.cli import display
from evclip_ray.cli.display import PlainConsole
from evclip_ray.cli.progress import Lines, bars, load_torch
from evclip_ray.progress import Pace, report, stage, time_left

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Clock:
    """Clock that a test sets."""

    now = 0.0

    def __call__(self):
        return self.now


class _Loader:
    """Import of an empty module in the place of OpenCLIP."""

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == "open_clip" else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        pass


@pytest.fixture
def lines():
    """Return lines on a clock, the clock, and a function that returns the text printed so far."""
    stream, clock = io.StringIO(), Clock()
    return Lines(PlainConsole(file=stream, width=140), clock), clock, stream.getvalue


@pytest.fixture
def terminal(monkeypatch):
    stream = io.StringIO()
    console = PlainConsole(file=stream, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(display, "console", console)
    return lambda: CONTROL.sub("", stream.getvalue())


def test_stage_is_one_line_per_minute_without_a_terminal(lines):
    steps, clock, printed = lines
    for clock.now in (0.0, 10.0, 59.0, 61.0):
        steps("loading networks", 0, 1)
        steps("loading networks", 1, 1)
    assert printed() == 2 * "loading networks ...\n"


def test_counted_step_prints_once_per_minute(lines):
    steps, clock, printed = lines
    for done in range(301):
        clock.now = float(done)
        steps("decoding train", done, 300)
    assert printed().splitlines() == [
        "decoding train: 0 of 300",
        "decoding train: 60 of 300, about 4 min left",
        "decoding train: 120 of 300, about 3 min left",
        "decoding train: 180 of 300, about 2 min left",
        "decoding train: 240 of 300, about 60 s left",
        "decoding train: 300 of 300 after 5 min",
    ]


def test_short_counted_step_prints_its_beginning_only(lines):
    steps, _, printed = lines
    for done in (10, 20, 30):
        steps("decoding val", done, 30)
    # Nothing was left to do.
    steps("decoding test", 12, 12)
    assert printed() == "decoding val: 10 of 30\n"


def test_estimate_counts_only_what_was_measured():
    # 40 of 60 videos were decoded by an earlier call.
    pace = Pace(40, now=100.0)
    assert pace.seconds_left(40, 60, now=130.0) is None
    assert pace.seconds_left(50, 60, now=130.0) == 30.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.4, "a few seconds left"), (8.0, "about 8 s left"), (44.0, "about 40 s left")],
)
def test_time_left_is_rounded(seconds, text):
    assert time_left(seconds) == text


def test_bar_has_its_count_and_disappears(terminal):
    with bars() as steps:
        steps("decoding train", 40, 240)
        steps.show("trial-0003", 5, 20, "top-1 0.417, 2.1 s/epoch")
    shown = terminal()
    assert re.search(r"decoding train +\S+ +40/240", shown)
    assert re.search(r"trial-0003 +\S+ +5/20 +top-1 0\.417, 2\.1 s/epoch", shown)
    assert "trial" not in shown.splitlines()[-1]


def test_stage_of_a_function_reaches_the_bars(terminal):
    with bars():
        with stage("zero-shot baseline"):
            pass
        report("scoring videos", 1, 3)
    assert "scoring videos" in terminal()
    # Outside of a command nothing is shown.
    with stage("loading networks"):
        pass
    assert "loading networks" not in terminal()


def test_stage_ends_with_an_error(terminal):
    with bars() as steps:
        with pytest.raises(ValueError, match="broken"), stage("reading the list"):
            raise ValueError("broken")
        assert steps._tasks == {}


def test_stop_is_shown_among_the_bars(terminal, monkeypatch, capfd):
    monkeypatch.setattr(termination._State, "received", None)
    with bars() as steps:
        steps("trials", 1, 4)
        termination.note_signal(signal.SIGINT)
        termination.announce_stop()
    assert "Stopping ...\n" in terminal()
    # The handler itself would print between the bars.
    assert "Stopping" not in capfd.readouterr().err


def test_loading_pytorch_is_named_once(monkeypatch, capsys):
    monkeypatch.setattr(display, "error_console", PlainConsole(stderr=True, width=140))
    # The real one takes seconds. Both entries are as before after the test.
    monkeypatch.setitem(sys.modules, "open_clip", None)
    del sys.modules["open_clip"]
    monkeypatch.setattr(sys, "meta_path", [_Loader(), *sys.meta_path])
    load_torch()
    load_torch()
    assert capsys.readouterr().err == "loading PyTorch ...\n"


def test_results_in_a_file_have_no_progress(monkeypatch, capsys):
    monkeypatch.setattr(display, "console", PlainConsole(width=140))
    monkeypatch.setattr(display, "error_console", PlainConsole(stderr=True, width=140))
    with bars(), stage("reading the list"):
        display.console.print("top-1 0.5")
    printed = capsys.readouterr()
    assert printed.out == "top-1 0.5\n"
    assert printed.err == "reading the list ...\n"
