"""Check of every node of a running cluster, before the first trial.

A small task on each node reports its versions and reads and writes a marker file in every shared folder.
The task is sent by value, because a node may lack this package.
"""

import contextlib
import dataclasses
import logging
import platform
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import NodeDiedError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evclip_ray.config import ConfigError
from evclip_ray.version import __version__

log = logging.getLogger(__name__)

_SECONDS = 120
_RETRY_SECONDS = 0.5
_MARKER = ".evclip-ray-storage-check-"
GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class NodeFacts:
    """Report of one node.

    `package` is the version of evclip-ray, None if it is not installed. In the `unseen` folders the node
    does not see the marker file of this process; to the `read_only` folders it cannot write. `free` has the
    free bytes on the disk of each folder.
    """

    name: str
    ray: str
    python: str
    package: str | None
    unseen: tuple[str, ...]
    read_only: tuple[str, ...]
    free: dict[str, int]


def check_nodes(storage: Sequence[Path]) -> list[NodeFacts]:
    """Return the facts of every node.

    Raises:
        ConfigError: A node lacks the package, has another version of it, of Ray or of Python, or cannot
            read or write a folder of `storage`.
    """
    facts = node_facts(storage)
    for node in facts:
        for problem in node_problems(node):
            raise ConfigError(f"node {node.name}: {problem}")
    return facts


def node_problems(node: NodeFacts) -> list[str]:
    """Return why a node is unusable, each reason with what to do."""
    advice = "install the same version on every node (setup_commands, or the image)"
    problems = []
    if node.package is None:
        problems.append(f"evclip-ray is not installed; {advice}")
    elif node.package != __version__:
        problems.append(f"evclip-ray is {node.package}, here {__version__}; {advice}")
    if node.ray != ray.__version__:
        problems.append(f"Ray is {node.ray}, here {ray.__version__}; {advice}")
    if _minor(node.python) != _minor(platform.python_version()):
        problems.append(f"Python is {node.python}, here {platform.python_version()}; {advice}")
    problems += [
        f"{folder} is not the folder that this process sees; put it on storage that every node mounts "
        "under the same path"
        for folder in node.unseen
    ]
    problems += [
        f"{folder} cannot be written to; check its owner and mount options" for folder in node.read_only
    ]
    return problems


def node_facts(storage: Sequence[Path]) -> list[NodeFacts]:
    """Return the facts of every running node. Folders of `storage` are created if they are missing."""
    probe = _make_probe()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    # A random name, so that the marker of a killed process or of another study is not taken for ours.
    marker = f"{_MARKER}{secrets.token_hex(8)}"
    folders = [str(folder) for folder in storage]
    with contextlib.ExitStack() as stack:
        # This process writes the markers. With ray:// its file system is not that of the head.
        for folder in storage:
            stack.enter_context(_marker_file(folder / marker))

        def send(node: Any) -> Any:
            # No CPU, so that a busy node answers too. A hard affinity (`soft=False`), because each report
            # must come from its own node.
            affinity = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            return probe.options(num_cpus=0, scheduling_strategy=affinity).remote(folders, marker)

        reports = [(node, send(node)) for node in nodes]
        # The time limit covers a node that is listed as alive but does not answer.
        deadline = time.monotonic() + _SECONDS
        results = [(node, _result(node, report, send, deadline)) for node, report in reports]
    return [
        NodeFacts(f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})", **result)
        for node, result in results
        if result is not None
    ]


def _result(node: Any, report: Any, send: Callable[[Any], Any], deadline: float) -> dict[str, Any] | None:
    """Return the report of a node, None if the node has left the cluster.

    A node that has just joined can be unknown to the scheduler, so its report is requested again.
    """
    while True:
        try:
            result: dict[str, Any] = ray.get(report, timeout=max(0.0, deadline - time.monotonic()))
            return result
        except (TaskUnschedulableError, NodeDiedError):
            if not any(other["Alive"] and other["NodeID"] == node["NodeID"] for other in ray.nodes()):
                log.warning("node %s has left the cluster", node["NodeManagerHostname"])
                return None
            if time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_SECONDS)
        report = send(node)


@contextlib.contextmanager
def _marker_file(path: Path) -> Any:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("written by the driver", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path.parent}: this machine cannot write to the folder ({error.strerror})"
        ) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _make_probe() -> Any:
    def probe(folders: list[str], marker: str) -> dict[str, Any]:
        # Imports inside the function make it self-contained, so it can be pickled by value.
        import importlib.metadata
        import os
        import platform
        import shutil
        import time
        from pathlib import Path

        import ray

        def is_seen(folder: str) -> bool:
            # A network file system may show a new file with a delay.
            for _ in range(10):
                if Path(folder).is_dir() and marker in {path.name for path in Path(folder).iterdir()}:
                    return True
                time.sleep(0.5)
            return False

        def can_write(folder: str) -> bool:
            own_file = Path(folder) / f"{marker}-{os.getpid()}-{platform.node()}"
            try:
                own_file.write_text("written by a node", encoding="utf-8")
                own_file.unlink()
            except OSError:
                return False
            return True

        try:
            package: str | None = importlib.metadata.version("evclip-ray")
        except importlib.metadata.PackageNotFoundError:
            package = None
        unseen = [folder for folder in folders if not is_seen(folder)]
        read_only = [folder for folder in folders if folder not in unseen and not can_write(folder)]
        return {
            "ray": ray.__version__,
            "python": platform.python_version(),
            "package": package,
            "unseen": tuple(unseen),
            "read_only": tuple(read_only),
            "free": {f: shutil.disk_usage(f).free for f in folders if f not in unseen},
        }

    remote: Callable[..., Any] = ray.remote(probe)
    return remote


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
