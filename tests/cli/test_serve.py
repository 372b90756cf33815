import socket

import pytest
from click.testing import CliRunner

from evclip_ray.cli import main
from evclip_ray.cli.serve import _check_resources, _share_of_gpus
from evclip_ray.config import ConfigError
from evclip_ray.deploy.server.limits import TOKEN_VARIABLE, ServerSettings


@pytest.fixture
def checkpoint(tmp_path):
    """Return a folder that looks like a checkpoint until it is loaded."""
    (tmp_path / "adapter.safetensors").touch()
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


def refused(monkeypatch, *arguments, token=""):
    """Return the error of a command that must end before Ray starts."""
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    monkeypatch.setattr("evclip_ray.cluster.connection.connect", None)
    result = CliRunner().invoke(main, ["serve", *arguments])
    assert result.exit_code == 1
    (line,) = result.output.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: other machines can reach the server"),
        (["--limit", "uploads=1"], "limits.uploads: unknown setting"),
        (["--limit", "requests"], "--limit needs PATH=VALUE, got 'requests'"),
        (["--allow-url", "host"], "--allow-url host: must be the start of a URL"),
        (["--gpus", "1.5"], "gpus must be a whole number above 1"),
        (["--host", "no.such.host.invalid", "--no-token"], "cannot be listened on"),
    ],
)
def test_mistake_is_one_line_before_ray_starts(monkeypatch, checkpoint, arguments, message):
    assert message in refused(monkeypatch, checkpoint, *arguments)


def test_folder_without_checkpoint_is_refused(monkeypatch, tmp_path):
    assert "must be a checkpoint folder" in refused(monkeypatch, str(tmp_path))


def test_used_port_is_refused(monkeypatch, checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        message = refused(monkeypatch, checkpoint, "--port", port)
    assert f"--port {port}: cannot be listened on (Address already in use)" in message


def test_short_token_is_refused(monkeypatch, checkpoint):
    assert "ASCII characters" in refused(monkeypatch, checkpoint, token="short")


def test_gpus_are_shared_among_replicas():
    machine = [{"CPU": 4.0, "GPU": 1.0}]
    assert [_share_of_gpus(machine, replicas) for replicas in (1, 2, 3)] == [1.0, 0.5, 0.3333]
    assert _share_of_gpus([{"CPU": 4.0}], 2) == 0
    assert _share_of_gpus([{"GPU": 8.0}], 2) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replicas": 5}, "5 replicas with 1 CPU each need 5 CPU, but this machine has 4"),
        (
            {"gpus": 0.75, "replicas": 2},
            "2 replicas with 0.75 GPU each need 1.5 GPU, but this",
        ),
    ],
)
def test_replicas_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        _check_resources([{"CPU": 4.0, "GPU": 1.0}], ServerSettings.load({"checkpoint": "best", **settings}))
