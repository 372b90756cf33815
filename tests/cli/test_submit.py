"""Errors of `submit` before anything is sent."""

import pytest
from click.testing import CliRunner

from evclip_ray.cli import main
from evclip_ray.cli.remote import without_address


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Nothing listens at this address, so a valid command ends with "no Ray answers there".
    return lambda *arguments: CliRunner().invoke(
        main, ["submit", "--address", "http://127.0.0.1:1", *arguments]
    )


GOOD = ("tune", "quickstart", "--out", "/shared/studies/a")


def test_valid_command_reaches_the_cluster(run):
    result = run("--", *GOOD)
    assert result.exit_code == 1
    assert "--address http://127.0.0.1:1: no Ray answers there" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--", "tune", "quickstart"),
            "--out must be a folder on the storage that the cluster's nodes share",
        ),
        (("--", "tune", "quickstart", "--out", "studies/a"), "got studies/a"),
        (("--", *GOOD, "--trails", "3"), "No such option"),
        (("--", *GOOD, "--trials", "many"), "not a valid integer"),
        (("--", "tun", "quickstart"), "No such command"),
        (("--", *GOOD, "--data", "videos/list.csv"), "list.csv is not a file in the working directory"),
        (("--", *GOOD, "--address", "ray://a:1"), "Remove --address ray://a:1"),
        (("--", "manifest", "verify", "a.csv"), "does not run on a cluster"),
        (("--env", "NO_SUCH_VARIABLE", "--", *GOOD), "this shell has no such variable"),
        (("--env", "=3", "--", *GOOD), "--env needs NAME or NAME=VALUE"),
        ((), "Missing command"),
    ],
)
def test_invalid_command_is_refused_locally(run, arguments, message):
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert message in result.output.replace("\n", " ")


def test_error_does_not_repeat_a_variables_value(run):
    assert "hidden-value" not in run("--env", "A-B=hidden-value", "--", *GOOD).output


def test_list_in_the_working_directory_is_accepted(run, tmp_path):
    (tmp_path / "list.csv").write_text("path,label\n/shared/a.mp4,a\n")
    assert "no Ray answers there" in run("--", *GOOD, "--data", "list.csv").output


def test_dashboard_address_submits_the_command(run, tmp_path, monkeypatch):
    arguments = ["tune", "quickstart", "--out", "/shared/a", "--address", "http://127.0.0.1:1"]
    monkeypatch.setattr("sys.argv", ["evclip-ray", *arguments])
    result = CliRunner().invoke(main, arguments)
    assert "--address http://127.0.0.1:1: no Ray answers there" in result.output
    monkeypatch.setattr("sys.argv", ["evclip-ray", "tune", "quickstart", "--address", "http://127.0.0.1:1"])
    assert (
        "--out must be a folder" in CliRunner().invoke(main, ["tune", "quickstart", *arguments[-2:]]).output
    )


def test_without_address_removes_both_forms():
    assert without_address(["tune", "--address", "http://a", "x", "--address=b"]) == ["tune", "x"]
