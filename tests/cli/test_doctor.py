import json

import pytest

from evclip_ray import cli
from evclip_ray.cluster import doctor
from evclip_ray.cluster.doctor import Check

RESULTS = [
    Check("decoder", "ok", "8 of 8 frames"),
    Check("cache", "warning", "[/b]: 1 MiB free", "Free some."),
]


@pytest.fixture
def found(monkeypatch):
    """Return a function that sets the results of the checks."""

    def set_results(*results):
        monkeypatch.setattr(doctor, "check_machine", lambda *a, **k: iter(results))

    return set_results


def test_each_check_is_one_line_with_its_fix(call, found):
    found(*RESULTS)
    result = call("doctor")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "ok       decoder                8 of 8 frames",
        "warning  cache                  [/b]: 1 MiB free. Free some.",
    ]


def test_failure_exits_with_1_also_as_json(call, found):
    found(*RESULTS, Check("Ray", "failed", "timed out", "Try again."))
    assert call("doctor").exit_code == 1
    result = call("doctor", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert not report["ok"]
    assert report["checks"][2] == {
        "name": "Ray",
        "state": "failed",
        "text": "timed out",
        "fix": "Try again.",
    }


@pytest.mark.parametrize(
    ("arguments", "is_terminal", "message"),
    [
        (["evaluate", "best"], True, "loading PyTorch ...\n"),
        (["evaluate", "--help"], True, ""),
        # After its own checks, see test_early_checks.
        (["tune", "debug"], True, ""),
        (["cluster", "status"], True, ""),
        (["evaluate", "best"], False, ""),
    ],
)
def test_loading_is_announced_in_a_terminal(monkeypatch, capsys, arguments, is_terminal, message):
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    cli._announce(arguments)
    assert capsys.readouterr().err == message
