"""SIGTERM ends a command as Ctrl-C does."""

import os
import signal
import subprocess
import sys

import pytest

from evclip_ray import termination
from evclip_ray.termination import Terminated, exit_status, raise_on_signals


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(termination._State, "received", None)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_sigterm_raises_and_gives_the_exit_status():
    assert exit_status() == 130, "without a signal: KeyboardInterrupt of Python's own handler"
    raise_on_signals()
    with pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)
    assert exit_status() == 143
    assert issubclass(Terminated, KeyboardInterrupt)


def test_ctrl_c_is_announced_at_once(capfd):
    raise_on_signals()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert "Stopping ..." in capfd.readouterr().err
    assert exit_status() == 130


def test_ignored_ctrl_c_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_on_signals()
    signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_in_an_import_ends_the_process_at_once(number, status, tmp_path):
    (tmp_path / "slow.py").write_text(
        f"import signal\nsignal.raise_signal({int(number)})\nprint('reached')\n"
    )
    code = (
        "from evclip_ray.termination import raise_on_signals; raise_on_signals()\n"
        "try:\n    import slow\nexcept BaseException: print('caught')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "", "\nInterrupted.\n")


def test_dead_ray_without_handler_is_logged(caplog):
    termination.ray_died("raylet")
    assert "Ray's process raylet died. Everything finished is kept" in caplog.text
