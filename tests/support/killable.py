"""Cluster on this machine whose nodes can be added and killed one by one, like spot machines."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.cluster.conftest import command_line, end, shell_environment


def quiet_port():
    """Return a free port below 32768, where the ports of outgoing connections start."""
    while True:
        with socket.socket() as listener, contextlib.suppress(OSError):
            port = random.randrange(20000, 32000)
            listener.bind(("127.0.0.1", port))
            return port


class Node:
    """One `ray start --block` with its child processes."""

    def __init__(self, folder, name, environment, *arguments):
        self.name, self.log = name, folder / f"{name}.log"
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                [
                    "ray",
                    "start",
                    "--block",
                    f"--temp-dir={folder / name}",
                    "--object-store-memory=100000000",
                    "--min-worker-port=0",
                    "--max-worker-port=0",
                    "--dashboard-agent-listen-port=0",
                    *arguments,
                ],
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(lambda: "Ray runtime started" in self.log.read_text(), of=self.process)

    def working(self, name):
        """Return the ids of Ray's processes on this node whose title names a class or function."""
        return [pid for pid in descendants(self.process.pid) if f"ray::{name}" in title(pid)]

    def kill(self):
        """Kill Ray and all of its processes on this node, as if the machine was lost."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            end(self.process)


class KillableCluster:
    """A head without CPUs, and worker nodes with one CPU each."""

    def __init__(self):
        # A socket's path is limited to 107 characters, which pytest's folders exceed.
        self.folder = Path(tempfile.mkdtemp(prefix="evk.", dir="/tmp"))
        self.address = f"127.0.0.1:{quiet_port()}"
        # With several clusters on one machine Ray's helpers pick any of them without RAY_ADDRESS.
        self.environment = shell_environment(RAY_AUTH_MODE="disabled", RAY_ADDRESS=self.address)
        self.nodes = []
        port = self.address.rpartition(":")[2]
        self.head = Node(
            self.folder,
            "head",
            self.environment,
            "--head",
            f"--port={port}",
            "--node-ip-address=127.0.0.1",
            "--num-cpus=0",
            "--num-gpus=0",
            f"--ray-client-server-port={quiet_port()}",
            f"--dashboard-port={quiet_port()}",
        )

    def join(self, count=1):
        """Add nodes and return them."""
        for _ in range(count):
            name = f"node{len(self.nodes)}"
            joined = Node(
                self.folder,
                name,
                self.environment,
                f"--address={self.address}",
                "--num-cpus=1",
                "--num-gpus=0",
            )
            self.nodes.append(joined)
        return self.nodes[-count:]

    def having(self, count):
        """Return exactly `count` running nodes, starting or stopping nodes as needed."""
        up = [node for node in self.nodes if node.process.poll() is None]
        for node in up[count:]:
            node.stop()
        missing = count - len(up)
        return up[:count] + (self.join(missing) if missing > 0 else [])

    def end(self):
        self.having(0)
        self.head.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, *arguments, log, before=""):
        """Start a command on this machine. `before` is Python code that its process runs first."""
        python, option, code, *rest = command_line(*arguments)
        with log.open("a") as stream:
            return subprocess.Popen(
                [python, option, before + code, *rest],
                env={**self.environment, "OMP_NUM_THREADS": "1"},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def wait_until(condition, *, of=None, seconds=240):
    """Wait until a condition holds; fail if the process `of` ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        if of is not None:
            assert of.poll() is None, f"{of.args} ended with {of.returncode} before the condition held"
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.1)


def history(folder):
    """Return the finished epochs of a run."""
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return []


def descendants(pid):
    """Return the ids of all processes below a process."""
    pids = []
    with contextlib.suppress(FileNotFoundError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                pids += [int(child), *descendants(child)]
    return pids


def title(pid):
    """Return the command line of a process, empty if it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
