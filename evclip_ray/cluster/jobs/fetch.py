"""Copy of an output folder from a cluster: directly if it is mounted here, else through the head."""

import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evclip_ray.cluster.connection import joined
from evclip_ray.config import ConfigError
from evclip_ray.ray_internals import HEAD_RESOURCE

_CHUNK = 8 * 2**20


def fetch(source: Path, out: Path, *, through: str) -> str:
    """Copy a folder of the cluster to this machine.

    Args:
        source: The folder on the cluster.
        out: The new folder on this machine.
        through: Address of the cluster, used if `source` is not mounted on this machine.

    Returns:
        How it was copied, as the verb of a sentence: "copied" or "fetched through ADDRESS".

    Raises:
        ConfigError: `out` exists already, or the head has no such folder.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already; choose a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    # In the same file system as `out`, so that the rename at the end is atomic. A broken copy leaves nothing.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        fetched = Path(folder) / "fetched"
        if source.is_dir():
            shutil.copytree(source, fetched)
            method = "copied"
        else:
            with joined(through):
                _fetch_through_head(source, fetched, Path(folder) / "fetched.tar.gz")
            method = f"fetched through {through}"
        fetched.rename(out)
    return method


def _fetch_through_head(source: Path, target: Path, archive: Path) -> None:
    head = next(node for node in ray.nodes() if node["Alive"] and HEAD_RESOURCE in node["Resources"])
    pinned = NodeAffinitySchedulingStrategy(head["NodeID"], soft=False)
    sender = _make_sender().options(num_cpus=0, scheduling_strategy=pinned).remote()
    size = ray.get(sender.pack.remote(str(source)))
    if size is None:
        raise ConfigError(
            f"{source}: the cluster's head has no such folder; the job may not have started writing it"
        )
    with archive.open("wb") as stream:
        # In chunks, so that the object store and the memory need not hold the whole archive.
        for offset in range(0, size, _CHUNK):
            stream.write(ray.get(sender.read.remote(offset, _CHUNK)))
    ray.kill(sender)
    with tarfile.open(archive) as packed:
        # This filter refuses absolute paths, devices and links that lead out of the target.
        packed.extractall(target, filter="data")


def _make_sender() -> Any:
    class Sender:
        """Archive of a folder on the head. Sent by value, because the head may have another version of us."""

        def pack(self, source: str) -> int | None:
            import os
            import tarfile
            import tempfile

            if not os.path.isdir(source):  # noqa: PTH112
                return None
            self.archive = tempfile.TemporaryFile()  # noqa: SIM115 - read by later calls
            with tarfile.open(fileobj=self.archive, mode="w:gz", compresslevel=1) as packed:
                packed.add(source, arcname=".")
            return self.archive.tell()

        def read(self, offset: int, size: int) -> bytes:
            self.archive.seek(offset)
            return self.archive.read(size)

    return ray.remote(Sender)
