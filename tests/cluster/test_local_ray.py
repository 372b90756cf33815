import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from evclip_ray.cluster import connection, local_ray
from evclip_ray.cluster.local_ray import check_loopback, local_options, provide_token, temporary_base
from evclip_ray.config import ConfigError

LONG = "t" * 90


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Remove the settings of the shell that runs the tests, and what a test sets itself."""
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        # Set first, so that monkeypatch restores the variable even if the code sets it.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_token_without_home_is_in_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    provide_token()
    first = os.environ["RAY_AUTH_TOKEN"]
    provide_token()
    assert len(first) == 64
    assert os.environ["RAY_AUTH_TOKEN"] == first
    assert list(tmp_path.iterdir()) == []


def test_token_of_the_user_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a" * 64)
    provide_token()
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    provide_token()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_user_without_home_folder_gets_a_token(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    provide_token()
    assert os.environ["RAY_AUTH_TOKEN"]


@pytest.mark.parametrize(("name", "value"), [("TMPDIR", f"/tmp/{LONG}"), ("RAY_TMPDIR", f"/{LONG}")])
def test_long_folder_is_replaced_by_a_short_one(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    base, problem = temporary_base()
    assert base == Path("/tmp")
    assert problem == f"{name}={value} is too long for Ray's sockets (more than 36 bytes)"


def test_short_folder_is_used_as_it_is(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert temporary_base() == (Path("/tmp"), None)
    with local_options() as options:
        assert options == {}


@pytest.mark.skipif(os.access("/proc", os.W_OK) and os.access("/proc/1/x", os.W_OK), reason="all writable")
def test_folder_that_is_no_folder_is_replaced(monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(local_ray, "_MAX_FOLDER_BYTES", 200)
    monkeypatch.setenv("TMPDIR", str(file))
    assert temporary_base()[1] == f"TMPDIR={file} is not writable"


def test_no_usable_folder_names_the_fix(monkeypatch):
    monkeypatch.setenv("TMPDIR", f"/{LONG}")
    monkeypatch.setattr(local_ray, "_SHORT_FOLDERS", (f"/{LONG}",))
    with pytest.raises(ConfigError, match="Set RAY_TMPDIR to a writable folder of at most 36 bytes"):
        temporary_base()


def test_replacement_folder_is_removed(monkeypatch, caplog):
    monkeypatch.setenv("TMPDIR", f"/tmp/{LONG}")
    with local_options() as options:
        folder = Path(options["_temp_dir"])
        assert folder.parent == Path("/tmp")
        # Ray's longest socket below it.
        name = "session_2026-11-27_19-40-00_123456_1234567/sockets/plasma_store"
        assert len(os.fsencode(folder / name)) <= 107
        (folder / "session").mkdir()
    assert not folder.exists()
    assert "Ray uses /tmp" in caplog.text


def test_folder_of_a_dead_process_is_removed_by_the_next(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", f"/tmp/{LONG}")
    monkeypatch.setattr(local_ray, "_MAX_FOLDER_BYTES", 90)
    monkeypatch.setattr(local_ray, "_SHORT_FOLDERS", (str(tmp_path),))
    dead, new = tmp_path / "evr-dead", tmp_path / "evr-new"
    (dead / "session").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(local_ray, "_NEW_SECONDS", 0)
        with local_options() as first, local_options() as second:
            assert Path(first["_temp_dir"]).is_dir()
            assert Path(second["_temp_dir"]).is_dir()
            assert not dead.exists()
    new.mkdir()
    with local_options():
        assert new.is_dir()


def test_missing_loopback_names_the_fix(monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(ConfigError, match=r"127.0.0.1 \(Network is unreachable\).*ip link set lo up"):
        check_loopback()


@pytest.mark.slow
def test_ray_runs_without_a_writable_home(tmp_path):
    """HOME=/dev/null stands for HOME=/ of a user who cannot write there; root can write to all folders."""
    code = """
import ray
from evclip_ray.cluster import connect
with connect(num_cpus=1) as machines:
    print(ray.get(ray.remote(lambda: 6 * 7).remote()))
"""
    variables = {"PATH": os.environ["PATH"], "HOME": "/dev/null", "TMPDIR": f"{tmp_path}/{LONG}"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=300, check=False)
    assert result.stdout.strip() == "42", result.stderr


def test_start_of_ray_is_reported_before_and_after(monkeypatch):
    events = []
    monkeypatch.setattr(connection.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(connection, "alive", list)
    monkeypatch.setattr(connection, "_session", lambda *_: contextlib.nullcontext(events.append("start")))
    with connection.connect(progress=lambda *event: events.append(event)):
        pass
    assert events == [("starting Ray", 0, 1), "start", ("starting Ray", 1, 1)]
