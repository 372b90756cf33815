"""Frozen networks over shards, by Ray Data: each actor loads each network once and writes whole files.

A file is made once, by whichever study asks first; a file that is missing, cut short, altered or foreign
is made again alone. Killed at any point, the next call ends with the same bytes.
"""

import errno
import logging
import pickle
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from evclip_ray.config import ConfigError
from evclip_ray.data.shards import ShardSet
from evclip_ray.features.encode import Job, ViewJob, is_done, run
from evclip_ray.features.spec import FeatureSpec

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
    # Reading a file to its digest leaves the interpreter free.
    with ThreadPoolExecutor(4) as pool:
        missing = [job for job, done in zip(distinct, pool.map(is_done, distinct), strict=True) if not done]
    if not missing:
        return
    # One network after another, so that an actor rarely holds several.
    missing.sort(key=lambda job: (job.spec.network, job.spec.key, job.key))
    for store in {job.store for job in missing}:
        _require_writable(store)
    _extract(missing, len(distinct), gpus_per_actor, progress)


def _extract(missing: list[Job], total: int, gpus_per_actor: float, progress: Progress | None) -> None:
    import ray
    import ray.data

    if not ray.is_initialized():
        raise ValueError("preparing features needs Ray, which is not started: call ray.init() first")
    cluster = ray.cluster_resources()
    gpus = gpus_per_actor if cluster.get("GPU", 0) > 0 else 0.0
    cpus = min([_THREADS, *(int(node["Resources"].get("CPU", 0)) or _THREADS for node in ray.nodes())])
    slots = cluster["GPU"] / gpus if gpus else cluster.get("CPU", 1) / cpus
    actors = max(1, min(int(slots), len(missing)))
    log.info("making %d of %d feature files by %d actors", len(missing), total, actors)
    items = [{"job": pickle.dumps(job), "threads": cpus} for job in missing]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _Encoder, compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=1 if gpus else cpus, num_gpus=gpus,
    )  # fmt: skip
    dataset.context.enable_progress_bars = False
    done = total - len(missing)
    for result in dataset.iter_rows():
        if result["problem"]:
            raise pickle.loads(result["problem"])
        done += 1
        if progress is not None:
            progress(done, total)


class _Encoder:
    """An actor: the networks that it has loaded stay with it, in this process's memory."""

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write one file. The user's mistakes come back as a result, as Ray would wrap the error."""
        torch.set_num_threads(int(row["threads"]))
        try:
            run(pickle.loads(row["job"]), self.device)
        except ConfigError as error:
            return {"problem": pickle.dumps(ConfigError(str(error)))}
        except OSError as error:
            return {"problem": pickle.dumps(_unwritable(error))}
        return {"problem": b""}


def _unwritable(error: OSError) -> OSError:
    cure = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "name a writable folder by --cache"
    message = f"{error.strerror or error}; features cannot be kept there: {cure}, finished files are kept"
    return OSError(error.errno or errno.EIO, message, error.filename)


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
        raise _unwritable(OSError(error.errno, error.strerror, str(store))) from None
