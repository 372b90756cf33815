"""A real cluster of three nodes in this machine, with a token and a dashboard, for the whole session."""

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
    """Where it answers, and the environment of a shell that may speak to it."""

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
        """Run the command as a person does; its exit status and everything it printed."""
        done = subprocess.run(
            command_line(*arguments), env=env or self.environment, cwd=cwd, timeout=timeout,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout


def command_line(*arguments):
    return [sys.executable, "-c", "from evclip_ray.cli import main; main()", *map(str, arguments)]


def shell_environment(**extra):
    """This process's, with the commands of its virtual environment and nothing of Ray's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return {**kept, "RAY_USAGE_STATS_ENABLED": "0", "COLUMNS": "200", **extra}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def end(process):
    """End a process that was started in a session of its own, and all that it started."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def local_cluster():
    """A head without CPUs and two workers of one CPU and one logical GPU, from cluster/local.sh."""
    # The path of a socket may have 107 characters, fewer than pytest's own folders leave.
    folder = Path(tempfile.mkdtemp(prefix="evl.", dir="/tmp"))
    cluster = LocalCluster(folder, free_port(), free_port(), free_port())
    environment = shell_environment(
        FOLDER=str(folder), PORT=str(cluster.port), CLIENT_PORT=str(cluster.client_port),
        DASHBOARD_PORT=str(cluster.dashboard_port),
    )  # fmt: skip
    log = Path(f"{folder}.out")
    with log.open("w") as stream:
        process = subprocess.Popen(
            ["bash", ROOT / "cluster" / "local.sh"], env=environment,
            stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
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
    """A head without CPUs, whose nodes a test may kill and add."""
    from tests.cluster.killable import KillableCluster

    started = KillableCluster()
    yield started
    started.end()


@pytest.fixture
def nodes(cluster):
    """Two nodes that the test may kill."""
    return cluster.having(2)
