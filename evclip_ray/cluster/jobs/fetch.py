"""Bringing a study's folder here: a copy where it is mounted here too, else through the cluster."""

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
    """Copy `source`, a folder of the cluster, to the new folder `out`; gives how.

    `through`: the address by which to ask the cluster's head, where the folder is not mounted here.

    Raises:
        ConfigError: `out` is there already, or the head has no such folder.
    """
    if out.exists():
        raise ConfigError(f"{out}: is there already; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        inside = Path(folder) / "fetched"
        if source.is_dir():
            shutil.copytree(source, inside)
            how = "copied"
        else:
            with joined(through):
                _through_the_head(source, inside, Path(folder) / "fetched.tar.gz")
            how = f"fetched through {through}"
        inside.rename(out)
    return how


def _through_the_head(source: Path, inside: Path, archive: Path) -> None:
    head = next(node for node in ray.nodes() if node["Alive"] and HEAD_RESOURCE in node["Resources"])
    pinned = NodeAffinitySchedulingStrategy(head["NodeID"], soft=False)
    sender = _make_sender().options(num_cpus=0, scheduling_strategy=pinned).remote()
    size = ray.get(sender.pack.remote(str(source)))
    if size is None:
        raise ConfigError(f"{source}: the cluster's head has no such folder; has the job begun to write it?")
    with archive.open("wb") as stream:
        for offset in range(0, size, _CHUNK):
            stream.write(ray.get(sender.read.remote(offset, _CHUNK)))
    ray.kill(sender)
    with tarfile.open(archive) as packed:
        packed.extractall(inside, filter="data")


def _make_sender() -> Any:
    class Sender:
        """Sent by value; a head may have another version of this package than the shell here."""

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
