"""Frozen networks over shards, by Ray Data: each actor loads each network once and writes whole files.

A file is made once, by whichever study asks first, and others wait for it; a file that is missing, cut
short, altered or foreign is made again alone. Killed at any point, the next call ends with the same bytes.
"""

import errno
import logging
import math
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from evclip_ray.config import ConfigError
from evclip_ray.data.shards.prepare import ShardSet
from evclip_ray.data.shards.ray_nodes import require_ray
from evclip_ray.features.encode import Job, ViewJob, is_done, run
from evclip_ray.features.spec import FeatureSpec
from evclip_ray.locking import building

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

# More threads than this give one network little on a CPU; further cores are further actors.
_THREADS = 8


def view_jobs(store: Path, spec: FeatureSpec, shards: ShardSet, num_views: int) -> list[ViewJob]:
    """A job for each frame shard and view."""
    return [
        ViewJob(store, spec, shards.folder, file, shards.file_key(file), view)
        for file in shards.files()
        for view in range(num_views)
    ]


def prepare_features(
    jobs: Sequence[Job], *, gpus_per_actor: float = 1.0, progress: Progress | None = None
) -> None:
    """Make what is missing of `jobs`; when nothing is, Ray is not needed.

    `gpus_per_actor`: a share of a GPU for each actor, where the cluster has any. `progress`: called with
    files done and files in all.

    Raises:
        ValueError: Ray is needed and not started.
        ConfigError: weights that cannot be had.
        OSError: the disk is full or read-only; what is finished is kept.
    """
    distinct = list({(job.spec.key, job.key): job for job in jobs}.values())
    missing = _missing(distinct)
    if not missing:
        return
    for store in {job.store for job in missing}:
        _require_writable(store)
    with building(job.store / job.spec.key for job in missing):
        # Another study may have made them while this one waited.
        if missing := _missing(missing):
            _extract(missing, len(distinct), gpus_per_actor, progress)


def _missing(jobs: list[Job]) -> list[Job]:
    # Reading a file to its digest leaves the interpreter free.
    with ThreadPoolExecutor(4) as pool:
        missing = [job for job, done in zip(jobs, pool.map(is_done, jobs), strict=True) if not done]
    # One network after another, so that an actor rarely holds several.
    return sorted(missing, key=lambda job: (job.spec.network, job.spec.key, job.key))


def _extract(missing: list[Job], total: int, gpus_per_actor: float, progress: Progress | None) -> None:
    import ray
    import ray.data

    require_ray("features")
    pool = plan_pool([node["Resources"] for node in ray.nodes() if node["Alive"]], gpus_per_actor)
    actors = min(pool.actors, len(missing))
    log.info("making %d of %d feature files by %d actors", len(missing), total, actors)
    items = [{"job": pickle.dumps(job), "threads": pool.threads} for job in missing]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _Encoder, compute=ray.data.ActorPoolStrategy(size=actors), num_cpus=pool.cpus, num_gpus=pool.gpus
    )
    dataset.context.enable_progress_bars = False
    # Trials may have the devices for longer than Ray Data would wait.
    dataset.context.execution_no_progress_timeout_s = -1
    done = total - len(missing)
    for result in dataset.iter_rows():
        if result["problem"]:
            raise pickle.loads(result["problem"])
        done += 1
        if progress is not None:
            progress(done, total)


class Pool(NamedTuple):
    """So many actors have room at once, each with these CPUs, this share of a GPU, and so many threads."""

    actors: int
    cpus: int
    gpus: float
    threads: int


def plan_pool(nodes: Sequence[Mapping[str, float]], gpus_per_actor: float) -> Pool:
    """The actors that the resources of `nodes` have room for, at least one.

    With a GPU anywhere, only there: `gpus_per_actor` of one GPU each, never a share of two. Without, each
    takes as many cores as every node has, up to what one network can use.
    """
    cores = [int(node.get("CPU", 0)) for node in nodes]
    threads = min([_THREADS, *(count for count in cores if count)])
    devices = [int(node.get("GPU", 0)) for node in nodes]
    if not any(devices):
        return Pool(max(sum(count // threads for count in cores), 1), threads, 0.0, threads)
    on_one_device = max(math.floor(1 / gpus_per_actor + 1e-6), 1)
    room = sum(min(number * on_one_device, count) for number, count in zip(devices, cores, strict=True))
    return Pool(max(room, 1), 1, gpus_per_actor, threads)


class _Encoder:
    """An actor: the networks that it has loaded stay with it, in this process's memory."""

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write one file. The user's mistakes come back as a result, as Ray would wrap the error."""
        torch.set_num_threads(int(row["threads"]))
        job: Job = pickle.loads(row["job"])
        try:
            run(job, self.device)
        except ConfigError as error:
            return {"problem": pickle.dumps(ConfigError(str(error)))}
        except OSError as error:
            return {"problem": pickle.dumps(_unwritable(error, job.store))}
        return {"problem": b""}


def _unwritable(error: OSError, store: Path) -> OSError:
    cure = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "name a writable folder by --cache"
    code = error.errno or errno.EIO
    message = f"{os.strerror(code)}; features cannot be kept there: {cure}, finished files are kept"
    # Arrow does not say where.
    return OSError(code, message, error.filename or str(store))


def _require_writable(store: Path) -> None:
    """Find out before networks are loaded, not after.

    Raises:
        OSError: it is not.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=store) as probe:
            probe.write(b"0")
    except OSError as error:
        raise _unwritable(OSError(error.errno, error.strerror, str(store)), store) from None
