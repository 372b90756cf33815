"""Restart of a command whose local Ray died."""

import os
import sys
import time

import pytest

from evclip_ray.cli import restart
from evclip_ray.cli.restart import RestartOnce, remaining


class Ended(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def ended(monkeypatch, capfd):
    """Return a function that calls the handler and returns its call of the system and its text."""
    calls = []

    def note(*arguments):
        calls.append(arguments)
        raise Ended

    monkeypatch.setattr(restart.os, "execve", note)
    monkeypatch.setattr(restart.os, "_exit", note)
    monkeypatch.setattr(sys, "argv", ["evclip-ray", "tune", "my space.yaml"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "evclip_ray", "tune", "my space.yaml"])

    def handle():
        with pytest.raises(Ended):
            RestartOnce()("raylet")
        return calls.pop(), capfd.readouterr().err

    return handle


def test_command_is_started_again_once(ended, monkeypatch):
    monkeypatch.delenv("EVCLIP_RAY_RESTARTED", raising=False)
    (program, command, environment), text = ended()
    assert (program, command) == (
        sys.executable,
        [sys.executable, "-m", "evclip_ray", "tune", "my space.yaml"],
    )
    assert text == "\nRay's process raylet died. Everything finished is kept. Starting Ray again, once.\n"
    assert {**environment, "EVCLIP_RAY_RESTARTED": ""} == {**os.environ, "EVCLIP_RAY_RESTARTED": ""}
    monkeypatch.setenv("EVCLIP_RAY_RESTARTED", environment["EVCLIP_RAY_RESTARTED"])
    status, text = ended()
    assert status == (1,)
    assert text.endswith("It is started again only once. Resume with:\n  evclip-ray tune 'my space.yaml'\n")


def test_restarted_command_has_the_rest_of_its_time(monkeypatch):
    monkeypatch.delenv("EVCLIP_RAY_RESTARTED", raising=False)
    assert remaining(3600.0) == 3600.0
    monkeypatch.setenv("EVCLIP_RAY_RESTARTED", str(time.monotonic() - 3000))
    assert 0 < remaining(3600.0) <= 600
    assert remaining(60.0) == 0
    assert remaining(None) is None
