"""Feature extraction on a Ray cluster: each actor loads a network once and writes whole files.

An actor on a GPU works on several files at once, see `batches`.

A file is computed by the first study that needs it, and other studies wait for it. Only files that are
missing, truncated, altered or foreign are computed. After a crash, the next call ends with the same bytes on
a CPU. On a GPU, batches can then have other sizes, for which some kernels round otherwise.

The actors are plain Ray actors. A Ray Data actor pool starts three more actors for its own statistics and
autoscaling, and each of them imports ray.data, which took minutes on two busy cores. It also passes its
constructor arguments through the object store, so Ray warns that a restart may fail.
"""

import errno
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from evclip_ray.artifacts import probe_writable
from evclip_ray.config import ConfigError
from evclip_ray.data.shards.prepare import ShardSet
from evclip_ray.data.shards.ray_nodes import require_ray
from evclip_ray.features.batches import JOBS_AT_ONCE
from evclip_ray.features.encode import Job, ViewJob, is_done, run_job
from evclip_ray.features.spec import FeatureSpec
from evclip_ray.formatting import counted
from evclip_ray.locking import building

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

# More threads gain little for one network on a CPU; further cores are used by further actors.
_MAX_THREADS = 8
# After this long without any running actor, the log names the resources that the actors wait for.
_PATIENCE_SECONDS = 60


def view_jobs(store: Path, spec: FeatureSpec, shards: ShardSet, num_views: int) -> list[ViewJob]:
    """Return one job per frame shard and view."""
    return [
        ViewJob(store, spec, shards.folder, file, shards.file_key(file), view)
        for file in shards.files()
        for view in range(num_views)
    ]


def prepare_features(
    jobs: Sequence[Job], *, gpus_per_actor: float = 1.0, progress: Progress | None = None
) -> None:
    """Compute the missing files of `jobs`; Ray is needed only if any is missing.

    Args:
        jobs: Files to have; duplicates are computed once.
        gpus_per_actor: Share of one GPU per actor, for features of runs on GPUs.
        progress: Called with the number of finished files and of all files.

    Raises:
        ValueError: Ray is needed and not started.
        ConfigError: weights are unavailable.
        OSError: the disk is full or read-only; finished files are kept.
    """
    distinct = list({(job.spec.key, job.key): job for job in jobs}.values())
    missing = _missing(distinct)
    if not missing:
        return
    for store in {job.store for job in missing}:
        _require_writable(store)
    with building(job.store / job.spec.key for job in missing):
        # Another study may have computed them while this one waited for the lock.
        if missing := _missing(missing):
            _extract(missing, len(distinct), gpus_per_actor, progress)


def _missing(jobs: list[Job]) -> list[Job]:
    # Hashing a file releases the GIL, so threads verify several files at once.
    with ThreadPoolExecutor(4) as pool:
        missing = [job for job, done in zip(jobs, pool.map(is_done, jobs), strict=True) if not done]
    # Grouped by network, so that an actor rarely holds several networks in memory.
    return sorted(missing, key=lambda job: (job.spec.network, job.spec.key, job.key))


def _extract(missing: list[Job], total: int, gpus_per_actor: float, progress: Progress | None) -> None:
    import ray

    require_ray("features")
    # A key names the device of the runs that read the features, so CPU runs do not get those of idle GPUs.
    on_gpu = any(job.spec.device == "cuda" for job in missing)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    pool = plan_pool(nodes, gpus_per_actor if on_gpu else 0.0)
    pool = pool._replace(actors=min(pool.actors, len(missing)))
    files, actors = counted(total, "feature file"), counted(pool.actors, "actor")
    log.info("computing %d of %s with %s", len(missing), files, actors)
    if progress is not None:
        progress(total - len(missing), total)
    for done, error in enumerate(_run_on_actors(missing, pool), start=total - len(missing) + 1):
        if error is not None:
            raise error
        if progress is not None:
            progress(done, total)


class Pool(NamedTuple):
    """Number of actors, and the CPUs, the share of a GPU and the threads of each."""

    actors: int
    cpus: int
    gpus: float
    threads: int

    @property
    def jobs_at_once(self) -> int:
        """Jobs of an actor at the same time. On a CPU there is nothing to overlap."""
        return JOBS_AT_ONCE if self.gpus else 1


def plan_pool(nodes: Sequence[Mapping[str, float]], gpus_per_actor: float) -> Pool:
    """Return the largest pool that fits on the nodes, of at least one actor.

    With GPUs, only GPU nodes are used, and no actor has parts of two GPUs. Otherwise each actor takes as many
    cores as the smallest node has, up to the number that one network can use.

    >>> plan_pool([{"CPU": 12.0}, {"CPU": 12.0}], gpus_per_actor=1.0)
    Pool(actors=2, cpus=8, gpus=0.0, threads=8)
    >>> plan_pool([{"CPU": 16.0, "GPU": 2.0}], gpus_per_actor=0.5)
    Pool(actors=4, cpus=1, gpus=0.5, threads=8)

    Args:
        nodes: Resources of each node, as Ray counts them.
        gpus_per_actor: Share of one GPU per actor, in (0, 1]; 0 for actors on CPUs.
    """
    cores = [int(node.get("CPU", 0)) for node in nodes]
    threads = min([_MAX_THREADS, *(count for count in cores if count)])
    devices = [int(node.get("GPU", 0)) for node in nodes]
    if gpus_per_actor == 0 or not any(devices):
        return Pool(max(sum(count // threads for count in cores), 1), threads, 0.0, threads)
    # 1 / (1 / 3) is 3 only up to rounding.
    on_one_device = max(math.floor(1 / gpus_per_actor + 1e-6), 1)
    actors = sum(min(number * on_one_device, count) for number, count in zip(devices, cores, strict=True))
    return Pool(max(actors, 1), 1, gpus_per_actor, threads)


def _run_on_actors(jobs: Sequence[Job], pool: Pool) -> Iterator[Exception | None]:
    """Run all jobs; yield one result per job as it finishes, an error of the user's or None."""
    import ray

    # Files are replaced whole, so a job may be repeated: a killed actor restarts and runs its job again.
    encoder = ray.remote(_Encoder).options(
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=pool.jobs_at_once,
    )
    device = "cuda" if pool.gpus else "cpu"
    actors = [encoder.remote(pool.threads, device, pool.gpus) for _ in range(pool.actors)]
    # An actor gets its first jobs once it runs: trials may hold the devices of some actors for hours, and
    # the others do all the work meanwhile.
    starting = {actor.ready.remote(): actor for actor in actors}
    working: dict[Any, Any] = {}
    waiting, unfinished = deque(jobs), len(jobs)
    try:
        while unfinished:
            finished, _ = ray.wait([*working, *starting], timeout=None if working else _PATIENCE_SECONDS)
            if not finished:
                log.warning(
                    "no actor for features has started: each needs %d CPU and %g GPU; still waiting",
                    pool.cpus,
                    pool.gpus,
                )
                continue
            error = ray.get(finished[0])
            is_result = finished[0] in working
            actor = (working if is_result else starting).pop(finished[0])
            # No more jobs than the actor works on. Jobs that are queued at a slow actor could not move to a
            # fast one.
            for _ in range(min(1 if is_result else pool.jobs_at_once, len(waiting))):
                working[actor.encode.remote(waiting.popleft())] = actor
            if is_result:
                unfinished -= 1
                yield error
    finally:
        # At once, including the actors that still wait for a device: the caller needs the resources next.
        for actor in actors:
            ray.kill(actor)


class _Encoder:
    """An actor that keeps the networks that it loaded in its process's memory."""

    def __init__(self, threads: int, device: str, gpus: float = 0.0) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device(device)
        if 0 < gpus < 1:
            # The batch size is computed from this share, and the memory of the other processes is safe.
            torch.cuda.set_per_process_memory_fraction(gpus)

    def ready(self) -> None:
        """Return once the actor runs."""

    def encode(self, job: Job) -> Exception | None:
        """Write one file. Errors of the user's are returned, because Ray would wrap a raised one."""
        try:
            run_job(job, self.device)
        except ConfigError as error:
            return ConfigError(str(error))
        except OSError as error:
            return _unwritable(error, job.store)
        return None


def _unwritable(error: OSError, store: Path) -> OSError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "free some space" if full else "name a writable folder by --cache"
    code = error.errno or errno.EIO
    message = f"{os.strerror(code)}; features cannot be written: {advice}, finished files are kept"
    # Arrow's errors do not carry the file name.
    return OSError(code, message, error.filename or str(store))


def _require_writable(store: Path) -> None:
    """Fail before networks are loaded, not after.

    Raises:
        OSError: the folder is not writable.
    """
    try:
        probe_writable(store)
    except OSError as error:
        raise _unwritable(OSError(error.errno, error.strerror, str(store)), store) from None
