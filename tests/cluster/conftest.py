"""Real clusters of several nodes on this machine."""

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class LocalCluster:
    """Addresses of a cluster, and the environment of a shell that may connect to it."""

    folder: Path
    port: int
    client_port: int
    dashboard_port: int

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def dashboard(self):
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def token(self):
        return (self.folder / "token").read_text()

    @property
    def environment(self):
        return shell_environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(self.folder / "token"))

    def evclip_ray(self, *arguments, env=None, cwd=None, timeout=240):
        """Run a command as a user does. Return its exit status and output."""
        done = subprocess.run(
            command_line(*arguments),
            env=env or self.environment,
            cwd=cwd,
            timeout=timeout,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout


def command_line(*arguments):
    return [sys.executable, "-c", "from evclip_ray.cli import main; main()", *map(str, arguments)]


def shell_environment(**extra):
    """Return this environment with the virtual environment's commands and without Ray's variables."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
    return {**variables, "RAY_USAGE_STATS_ENABLED": "0", "COLUMNS": "200", **extra}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def end(process):
    """End a process that was started in its own session, with its children."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def local_cluster():
    """Start a head without CPUs and two workers with one CPU and one logical GPU, by cluster/local.sh."""
    # A socket's path is limited to 107 characters, which pytest's folders exceed.
    folder = Path(tempfile.mkdtemp(prefix="evl.", dir="/tmp"))
    cluster = LocalCluster(folder, free_port(), free_port(), free_port())
    environment = shell_environment(
        FOLDER=str(folder),
        PORT=str(cluster.port),
        CLIENT_PORT=str(cluster.client_port),
        DASHBOARD_PORT=str(cluster.dashboard_port),
    )
    log = Path(f"{folder}.out")
    with log.open("w") as stream:
        process = subprocess.Popen(
            ["bash", ROOT / "cluster" / "local.sh"],
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while "nodes are up" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.5)
        yield cluster
    finally:
        end(process)
        log.unlink()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster():
    """Start a head without CPUs, to which tests add nodes and kill them."""
    from killable import KillableCluster

    started = KillableCluster()
    yield started
    started.end()


@pytest.fixture
def nodes(cluster):
    """Return two nodes that the test may kill."""
    return cluster.having(2)
