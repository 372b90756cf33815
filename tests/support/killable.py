"""A cluster in this machine whose nodes can be killed and added one by one, as spot machines come and go."""

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
    """A free port that no outgoing connection is given meanwhile: those are from 32768 on."""
    while True:
        with socket.socket() as listener, contextlib.suppress(OSError):
            port = random.randrange(20000, 32000)
            listener.bind(("127.0.0.1", port))
            return port


class Node:
    """One `ray start --block`, with everything that it started."""

    def __init__(self, folder, name, environment, *arguments):
        self.name, self.log = name, folder / f"{name}.log"
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                ["ray", "start", "--block", f"--temp-dir={folder / name}", "--object-store-memory=100000000",
                 "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0", *arguments],
                env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        wait_until(lambda: "Ray runtime started" in self.log.read_text(), of=self.process)

    def working(self, what):
        """Ray's processes on this node that do `what`, by the names that Ray gives them."""
        return [pid for pid in descendants(self.process.pid) if f"ray::{what}" in title(pid)]

    def kill(self):
        """Take the machine away: its Ray and all that runs there, without a word."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            end(self.process)


class KillableCluster:
    """A head without CPUs, and nodes of one CPU that `join`."""

    def __init__(self):
        # The path of a socket may have 107 characters, fewer than pytest's own folders leave.
        self.folder = Path(tempfile.mkdtemp(prefix="evk.", dir="/tmp"))
        self.address = f"127.0.0.1:{quiet_port()}"
        # With several clusters in one machine Ray's own helpers ask any of them, unless told.
        self.environment = shell_environment(RAY_AUTH_MODE="disabled", RAY_ADDRESS=self.address)
        self.nodes = []
        port = self.address.rpartition(":")[2]
        self.head = Node(
            self.folder, "head", self.environment, "--head", f"--port={port}",
            "--node-ip-address=127.0.0.1", "--num-cpus=0", "--num-gpus=0",
            f"--ray-client-server-port={quiet_port()}", f"--dashboard-port={quiet_port()}",
        )  # fmt: skip

    def join(self, count=1):
        """Add nodes."""
        for _ in range(count):
            name = f"node{len(self.nodes)}"
            joined = Node(
                self.folder, name, self.environment,
                f"--address={self.address}", "--num-cpus=1", "--num-gpus=0",
            )  # fmt: skip
            self.nodes.append(joined)
        return self.nodes[-count:]

    def having(self, count):
        """So many nodes, whatever was killed or added before."""
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
        """Start a command here, as a person does; `before`: Python that its process runs first."""
        python, option, code, *rest = command_line(*arguments)
        with log.open("a") as stream:
            return subprocess.Popen(
                [python, option, before + code, *rest],
                env={**self.environment, "OMP_NUM_THREADS": "1"}, stdout=stream, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip


def wait_until(condition, *, of, seconds=240):
    """Wait until something holds, while a process runs."""
    end_of_waiting = time.monotonic() + seconds
    while not condition():
        assert of.poll() is None, f"{of.args} ended with {of.returncode} before it came to that"
        assert time.monotonic() < end_of_waiting, "it never came to that"
        time.sleep(0.1)


def history(folder):
    """The epochs of a run so far."""
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return []


def descendants(pid):
    """The processes that a process started, and those that these did."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(child)]
    return found


def title(pid):
    """What a process calls itself; nothing once it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
