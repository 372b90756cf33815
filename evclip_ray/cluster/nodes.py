"""Whether every node of a running cluster can do our work, asked of the nodes themselves.

A small task on each node, before the first trial: it knows its versions, and reads and writes a
word in every folder that trials are to share. It is sent by value, for a node may lack this package.
"""

import contextlib
import dataclasses
import platform
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evclip_ray.config import ConfigError
from evclip_ray.version import __version__

_SECONDS = 120
_WORD = ".evclip-ray-storage-check-"
GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class NodeFacts:
    """What one node says of itself. `package`: our version, None where it is not installed.

    `unseen`: folders in which it does not see the word of this process; `read_only`: those it
    cannot write to; `free`: bytes on the disk of each folder.
    """

    name: str
    ray: str
    python: str
    package: str | None
    unseen: tuple[str, ...]
    read_only: tuple[str, ...]
    free: dict[str, int]


def check_nodes(storage: Sequence[Path]) -> list[NodeFacts]:
    """The facts of every node.

    Raises:
        ConfigError: a node without the package or with another version of it, of Ray or Python, or
            one that does not see, or may not write to, a folder of `storage`.
    """
    facts = node_facts(storage)
    for node in facts:
        for problem in node_problems(node):
            raise ConfigError(f"node {node.name}: {problem}")
    return facts


def node_problems(node: NodeFacts) -> list[str]:
    """What keeps a node from doing our work, each with its cure."""
    cure = "install the same version on every node (setup_commands, or the image)"
    problems = []
    if node.package is None:
        problems.append(f"evclip-ray is not installed; {cure}")
    elif node.package != __version__:
        problems.append(f"evclip-ray is {node.package}, here {__version__}; {cure}")
    if node.ray != ray.__version__:
        problems.append(f"Ray is {node.ray}, here {ray.__version__}; {cure}")
    if _minor(node.python) != _minor(platform.python_version()):
        problems.append(f"Python is {node.python}, here {platform.python_version()}; {cure}")
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
    """Ask every node that is up. `storage`: folders, made if absent, on the node that asks first."""
    probe = _make_probe()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    word = f"{_WORD}{secrets.token_hex(8)}"
    folders = [str(folder) for folder in storage]
    with contextlib.ExitStack() as stack:
        # The driver's own file system is asked, not the head's: with ray:// they differ.
        for folder in storage:
            stack.enter_context(_word_in(folder / word))
        asked = [
            probe.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(folders, word)
            for node in nodes
        ]
        answers = ray.get(asked, timeout=_SECONDS)
    names = [node["NodeManagerHostname"] + " (" + node["NodeManagerAddress"] + ")" for node in nodes]
    return [NodeFacts(name, **answer) for name, answer in zip(names, answers, strict=True)]


@contextlib.contextmanager
def _word_in(path: Path) -> Any:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("written by the driver", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path.parent}: cannot be written to here ({error.strerror})") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _make_probe() -> Any:
    def probe(folders: list[str], word: str) -> dict[str, Any]:
        # Everything that it needs is imported here, so that it travels by value.
        import importlib.metadata
        import os
        import platform
        import shutil
        import time
        from pathlib import Path

        import ray

        def is_seen(folder: str) -> bool:
            # A network file system may show a new file late.
            for _ in range(10):
                if Path(folder).is_dir() and word in {path.name for path in Path(folder).iterdir()}:
                    return True
                time.sleep(0.5)
            return False

        def can_write(folder: str) -> bool:
            mine = Path(folder) / f"{word}-{os.getpid()}-{platform.node()}"
            try:
                mine.write_text("written by a node", encoding="utf-8")
                mine.unlink()
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
