"""All commands: help texts and errors. Then the small commands without a test file."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from evclip_ray.cli import main


def commands(group=main, prefix=()):
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name), command


COMMANDS = [pytest.param(path, command, id=" ".join(path)) for path, command in commands()]


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_help_ends_with_an_example_of_the_command(path, command, call):
    result = call(*path, "--help")
    assert result.exit_code == 0
    last = result.output.strip().splitlines()[-1].strip()
    assert last.startswith("evclip-ray " + " ".join(path))


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_every_option_has_a_help_text(path, command):
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    assert [option.name for option in options if not option.help and not option.hidden] == []


def test_help_lists_every_command_once(call):
    output = call("--help").output
    for name, command in main.commands.items():
        assert output.count(f"\n  {name} ") == 1
        assert command.get_short_help_str(100).split()[0] in output


def test_python_m_runs_the_command_line():
    result = subprocess.run(
        [sys.executable, "-m", "evclip_ray", "--help"], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("Usage: evclip-ray [OPTIONS] COMMAND")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tune", "quickstrat"), "did you mean 'quickstart'"),
        (("tune", "debug"), "data needs either a manifest"),
        (("tune", "debug", "--data", "none.csv"), "none.csv"),
        (("tune", "quickstart", "--set", "optim.lrr=1"), "did you mean 'optim.lr'"),
        (("tune", "quickstart", "--set", "optim.lr"), "PATH=VALUE"),
        (("tune", "quickstart", "--set", "backbone.name=ViT-B-61"), "did you mean 'ViT-B-16'"),
        (("tune", "quickstart", "--set", "method.name=ev_klip"), "did you mean 'ev_clip'"),
        (
            ("tune", "quickstart", "--pack", "4"),
            "trial packing was removed. Let trials share a GPU with",
        ),
        (("train", "none.yaml"), "none.yaml: cannot be read"),
        (("evaluate", "."), "must be a checkpoint folder"),
        (("manifest", "verify", "none.csv"), "none.csv"),
    ],
)
def test_error_is_one_line_with_the_remedy(call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 1
    lines = result.output.strip().splitlines()
    assert len(lines) == 1, result.output
    assert lines[0].startswith("Error: ")
    assert message in lines[0]


def test_check_lists_versions_and_shipped_spaces(call):
    result = call("check")
    assert result.exit_code == 0
    for word in ("torch", "ray", "decoder", "quickstart: valid", "ev_clip: valid"):
        assert word in result.output


def test_wrong_choice_is_one_line_without_usage():
    result = CliRunner().invoke(main, ["evaluate", "best", "--split", "tset"])
    assert result.exit_code == 2
    assert result.output.splitlines() == [
        "Error: Invalid value for '--split': 'tset' is not one of 'train', 'val', 'test'."
    ]
