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
    ("arguments", "is_loaded"),
    [
        (["cache", "ls"], True),
        (["cache", "--help"], False),
        # After its own checks, see test_early_checks.
        (["tune", "debug"], False),
        (["cluster", "status"], False),
    ],
)
def test_slow_commands_load_pytorch_first(monkeypatch, arguments, is_loaded):
    calls = []
    monkeypatch.setattr(cli, "load_torch", lambda: calls.append(arguments))
    cli._load_torch(arguments)
    assert calls == [arguments] * is_loaded
