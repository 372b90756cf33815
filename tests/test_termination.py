"""SIGTERM ends a command as Ctrl-C does."""

import signal

import pytest

from evclip_ray import termination
from evclip_ray.termination import Terminated, exit_status, raise_on_sigterm


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(termination._State, "received", None)
    yield
    signal.signal(signal.SIGTERM, before)


def test_sigterm_raises_and_gives_the_exit_status():
    assert exit_status() == 130, "without a signal: KeyboardInterrupt of Python's own handler"
    raise_on_sigterm()
    with pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)
    assert exit_status() == 143
    assert issubclass(Terminated, KeyboardInterrupt)


def test_dead_ray_without_handler_is_logged(caplog):
    termination.ray_died("raylet")
    assert "Ray's process raylet died. Everything finished is kept" in caplog.text
