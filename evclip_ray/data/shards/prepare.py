"""Decoding of a manifest's videos into shards with Ray Data.

Each task of the Ray dataset takes one shard after another from a queue, so that all tasks end at about the
same time. It decodes the videos one by one, so that a damaged video does not affect others. The bytes of a
shard depend on its inputs only, never on the cluster. A preparation that was killed can be run again: it
keeps the finished shards and ends with the same files.
"""

import contextlib
import dataclasses
import errno
import logging
import pickle
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evclip_ray.artifacts import LEDGER, ArtifactError, digest, read_ledger, write_csv, write_ledger
from evclip_ray.data import storage
from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.shards.crash_guard import CrashGuard
from evclip_ray.data.shards.dataset import (
    INDEX_SCHEMA,
    SIZE_COLUMNS,
    STAGE,
    ShardSet,
    open_shards,
    write_index,
)
from evclip_ray.data.shards.format import ShardJob, is_finished, read_outcomes, write_shard
from evclip_ray.data.shards.planning import TASK_FRAMES, count_tasks, cut, decoding_work
from evclip_ray.data.shards.ray_nodes import count_cpus, require_mounted, require_ray, restrict_to
from evclip_ray.data.shards.shard_queue import ShardQueue
from evclip_ray.data.storage import Place, StorageError
from evclip_ray.data.video.decode import decoder_name
from evclip_ray.data.video.view import MAX_ASPECT, ViewConfig, describe_pixels
from evclip_ray.formatting import binary_size, counted

__all__ = ["ShardSet", "open_shards", "prepare_shards"]

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

QUARANTINE = "quarantine.csv"
# Small enough for an even distribution and a small loss on a kill, large enough for a small number of files.
_SHARD_BYTES = 64 * 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclasses.dataclass(frozen=True)
class Writing:
    """Settings of shard writing, the same for all tasks.

    Attributes:
        queue: Queue actor; None if no shard is left besides the tasks' initial ones.
        root: Root of the videos' paths.
        folder: Folder of the shards.
        seconds_per_video: Time limit per video.
        run: Unique name of this preparation. Deaths of earlier preparations are not counted, because a
            person may have killed those.
    """

    queue: Any
    root: Place
    folder: Path
    seconds_per_video: float
    run: str

    def take(self, task: int, index: int) -> bytes | None:
        """Return the shard number `index` of a task after its initial one; None when none is left."""
        if self.queue is None:
            return None
        # Not ray.get, which lends the task's CPU to another task while it waits.
        job: bytes | None = self.queue.take.remote(task, index).future().result()
        return job

    def write(self, job: ShardJob) -> None:
        """Write a shard unless it is finished."""
        if is_finished(self.folder / job.file, job):
            return
        require_mounted(job, self.root)
        # The name begins with ".shard-", so that `_finish` removes the logs of killed processes with other
        # leftovers.
        log_file = self.folder / f".{job.file}.{self.run}.attempts"
        with CrashGuard(log_file, seconds=self.seconds_per_video) as guard:
            write_shard(job, root=self.root, folder=self.folder, guard=guard)


def prepare_shards(
    manifest: Manifest,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
    *,
    view: ViewConfig,
    folder: Path | str,
    num_views: int = 1,
    seed: int | None = 0,
    rows_per_shard: int | None = None,
    seconds_per_video: float = 600,
    nodes: Sequence[str] = (),
    progress: Progress | None = None,
) -> ShardSet:
    """Decode V views of each video into shards, once.

    Finished shards are kept; if all are finished, Ray is not needed. Videos that do not decode, crash the
    decoder or exceed the time limit are listed in `quarantine.csv` and in the ledger.

    Args:
        manifest: The videos. Every node that decodes must have its root under the same path.
        indices: Manifest rows; all by default.
        view: Sampling and size of the frames.
        folder: Folder of the shards, on storage that every node that decodes shares under the same path.
        num_views: V. View 0 is deterministic, the others are drawn by (`seed`, video, view).
        seed: None spreads all views evenly over the video instead, for evaluation.
        rows_per_shard: Largest number of videos per file; by default about 64 MiB of frames.
        seconds_per_video: Time limit per video.
        nodes: Ray ids of the nodes that decode; all if empty.
        progress: Called with the number of finished videos and of all videos.

    Returns:
        The videos that decoded.

    Raises:
        ValueError: Ray is needed and not started, or no video decodes.
        ArtifactError: the folder was made from other inputs.
        OSError: the disk is full, or a storage cannot be read; finished shards are kept.
    """
    if num_views < 1 or (rows_per_shard is not None and rows_per_shard < 1):
        raise ValueError(f"num_views and rows_per_shard must be 1 or more, got {num_views}, {rows_per_shard}")
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    # At least one video, even if its views alone exceed the size of a shard.
    rows_per_shard = rows_per_shard or max(_SHARD_BYTES // (num_views * view.num_bytes), 1)
    videos = _videos(manifest, np.arange(len(manifest)) if indices is None else np.asarray(indices))
    inputs = {
        "videos": digest(videos),
        "view": view.model_dump(),
        "num_views": num_views,
        "seed": seed,
        "rows_per_shard": rows_per_shard,
        "decoder": decoder_name(view.decoder),
    }
    _refuse_other(folder, inputs)
    jobs = _plan(videos, view, num_views, seed, rows_per_shard)
    missing = [job for job in jobs if not is_finished(folder / job.file, job)]
    # The ledger is written last. Without it, the index or the quarantine may be missing although all shards
    # exist.
    if missing or not (folder / LEDGER).exists():
        done = len(videos) - sum(len(job.videos) for job in missing)
        if progress is not None:
            progress(done, len(videos))
        with _explain_full_disk(folder, missing):
            for count in _write_all(missing, manifest.root, folder, seconds_per_video, nodes):
                done += count
                if progress is not None:
                    progress(done, len(videos))
            _finish(folder, jobs, inputs)
    return open_shards(folder)


def videos_digest(manifest: Manifest, indices: NDArray[np.int64]) -> str:
    """Return the digest of rows and of their files as they are now, as in the ledger of shards."""
    return digest(_videos(manifest, indices))


def _videos(manifest: Manifest, indices: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return the rows to decode, each with its number and its file's size and version (None if absent)."""
    rows = manifest.select(indices).rows()
    identities = storage.identities(manifest.root, (row["path"] for row in rows))
    # An absent file is planned too: its decoding fails with a reason, and its key changes once it exists.
    versions = [identities[row["path"]] or (None, None) for row in rows]
    return [
        # Frames do not depend on true masks, so naming masks keeps the shards.
        {name: value for name, value in row.items() if name != "mask"}
        | {"row": int(index), "bytes": size, "modified": version}
        for row, index, (size, version) in zip(rows, indices, versions, strict=True)
    ]


def _plan(
    videos: list[dict[str, Any]], view: ViewConfig, num_views: int, seed: int | None, rows_per_shard: int
) -> list[ShardJob]:
    sampled = num_views * view.num_frames
    work = [decoding_work(video, sampled_frames=sampled) for video in videos]
    return [
        ShardJob(f"shard-{number:05d}.arrow", videos[rows], view, num_views, seed, decoder_name(view.decoder))
        for number, rows in enumerate(cut(work, max_rows=rows_per_shard))
    ]


def _refuse_other(folder: Path, inputs: dict[str, Any]) -> None:
    if not (folder / LEDGER).exists():
        return
    ledger = read_ledger(folder, STAGE)
    if ledger["key"] != digest(inputs):
        changed = [name for name, value in inputs.items() if ledger["inputs"].get(name) != value]
        raise ArtifactError(
            f"{folder}: its shards were made from other inputs (different: {', '.join(changed)});"
            " choose another folder or delete this one. Deleting only its ledger.json keeps the shards"
            " that are still valid"
        )


def _write_all(
    jobs: list[ShardJob], root: Place, folder: Path, seconds_per_video: float, nodes: Sequence[str]
) -> Iterator[int]:
    """Write the shards on the cluster; yield the number of videos of each finished shard."""
    if not jobs:
        return
    import ray

    require_ray("shards")
    # Frames are stored uncompressed, so their size is known before anything is decoded, or estimated if
    # videos keep their aspect ratio. `_explain_full_disk` turns this error into one with the numbers.
    if shutil.disk_usage(folder).free < sum(job.num_bytes for job in jobs):
        raise OSError(errno.ENOSPC, "too little space")
    logger.info("%s: writing %s with %s", folder, counted(len(jobs), "shard"), jobs[0].decoder)
    try:
        yield from _run_all(jobs, root, folder, seconds_per_video, nodes)
    except ray.exceptions.TaskUnschedulableError:
        logger.warning(
            "%s: the nodes for decoding are lost; the remaining shards are decoded on any node", folder
        )
        unfinished = [job for job in jobs if not is_finished(folder / job.file, job)]
        yield from _run_all(unfinished, root, folder, seconds_per_video, ())


def _run_all(
    jobs: list[ShardJob], root: Place, folder: Path, seconds_per_video: float, nodes: Sequence[str]
) -> Iterator[int]:
    """Write shards on `nodes`, or on any node; yield the number of videos of each finished shard."""
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Longest first, so that the run does not end with one long shard while the other processes are idle.
    ordered = sorted(((job.work, job) for job in jobs), key=lambda pair: -pair[0])
    # As bytes, because the queue's process can hold them without importing NumPy, Arrow and PyAV.
    pickled = [pickle.dumps(job) for _, job in ordered]
    count = count_tasks([work for work, _ in ordered], processes=count_cpus(nodes))
    # Each task carries its first shard, so that none waits for the start of the queue's process.
    first, queued, queue = pickled[:count], pickled[count:], None
    if queued:
        # On the driver's node, because the queue is of no use without the driver.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        queue = ray.remote(ShardQueue).options(num_cpus=0, scheduling_strategy=here).remote(queued)
    writing = Writing(queue, root, folder, seconds_per_video, run=uuid.uuid4().hex)
    tasks = [{"task": number, "first": job} for number, job in enumerate(first)]
    # One block per task, because Ray Data runs the rows of a block one after another in one process.
    dataset = ray.data.from_items(tasks, override_num_blocks=count).flat_map(
        _run, fn_kwargs={"writing": writing}, num_cpus=1, **restrict_to(nodes)
    )
    dataset.context.enable_progress_bars = False
    # Without this, Ray Data collects rows into large blocks and the progress arrives late.
    dataset.context.target_max_block_size = 1
    # Another study may hold the CPUs for longer than Ray Data's default patience.
    dataset.context.execution_no_progress_timeout_s = -1
    # Rows arrive as tasks yield them, so progress is reported for each shard and not for each task.
    for result in dataset.iter_rows():
        if result["storage"]:
            raise StorageError(result["storage"])
        if result["full"]:
            raise OSError(errno.ENOSPC, "the disk filled up")
        yield int(result["videos"])


def _run(row: dict[str, Any], *, writing: Writing) -> Iterator[dict[str, Any]]:
    """Run one task: write its initial shard, then queued ones until it has done enough; yield one row each.

    A full disk or an unreadable storage is returned as a row, because Ray would wrap a raised error.
    """
    work, index = 0.0, 0
    pickled: bytes | None = row["first"]
    while pickled is not None:
        job: ShardJob = pickle.loads(pickled)
        result = {"videos": 0, "full": False, "storage": ""}
        try:
            writing.write(job)
        except StorageError as error:
            yield result | {"storage": str(error)}
            return
        except OSError as error:
            if error.errno not in _FULL:
                raise
            yield result | {"full": True}
            return
        yield result | {"videos": len(job.videos)}
        work += job.work
        pickled = writing.take(row["task"], index) if work < TASK_FRAMES else None
        index += 1


@contextlib.contextmanager
def _explain_full_disk(folder: Path, jobs: list[ShardJob]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        unwritten = sum(job.num_bytes for job in jobs if not (folder / job.file).exists())
        free = shutil.disk_usage(folder).free
        message = (
            f"no space for shards ({binary_size(unwritten)} needed, {binary_size(free)} free);"
            " free some space and run again, finished shards are kept"
        )
        raise OSError(error.errno, message, str(folder)) from None


def _finish(folder: Path, jobs: list[ShardJob], inputs: dict[str, Any]) -> None:
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    reshaped: list[str] = []
    for job in jobs:
        # A folder that is not shared passes all checks of the workers, but their files are on other machines.
        if not is_finished(folder / job.file, job):
            raise ArtifactError(
                f"{folder / job.file}: a worker wrote it, but this node does not have it;"
                " choose a folder on storage that all nodes share"
            )
        outcomes = read_outcomes(folder / job.file)
        for batch, (video, outcome) in enumerate(zip(job.videos, outcomes, strict=True)):
            if outcome.reason:
                skipped.append({"row": video["row"], "path": video["path"], "reason": outcome.reason})
            else:
                if outcome.pixel_aspect:
                    reshaped.append(f"{video['path']}, {outcome.pixel_aspect}")
                sizes = dict(zip(SIZE_COLUMNS, outcome.size, strict=True)) if outcome.size else {}
                columns = {"file": job.file, "batch": batch, **sizes}
                rows.append(columns | {name: video[name] for name in INDEX_SCHEMA.names if name in video})
    _quarantine(folder, skipped)
    _report_long(folder, rows)
    if reshaped and jobs[0].view.pixels == "stored":
        logger.warning("%s: %s", folder, describe_pixels(reshaped))
    if not rows:
        raise ValueError(
            f"none of {counted(len(skipped), 'video')} decodes; the first is {skipped[0]['path']}"
            f" ({skipped[0]['reason']}); see {folder / QUARANTINE}"
        )
    # Temporary files of killed processes.
    for stale in folder.glob(".shard-*"):
        # Its process may end and remove it meanwhile.
        stale.unlink(missing_ok=True)
    write_index(folder, rows, digest(inputs))
    counts = {"videos": len(rows), "skipped": len(skipped), "shards": len(jobs)}
    if reshaped:
        counts["pixels_not_square"] = len(reshaped)
    write_ledger(folder, STAGE, inputs=inputs, counts=counts, skipped=skipped)


def _report_long(folder: Path, rows: list[dict[str, Any]]) -> None:
    sizes = [[row[name] for name in SIZE_COLUMNS if name in row] for row in rows]
    count = sum(max(size) == MAX_ASPECT * min(size) for size in sizes if size)
    if count:
        message = "%s: %s a picture of %d:1 or longer, of which the middle %d:1 is stored"
        logger.warning(message, folder, counted(count, "video", "has", "have"), MAX_ASPECT, MAX_ASPECT)


def _quarantine(folder: Path, skipped: list[dict[str, Any]]) -> None:
    if not skipped:
        return
    logger.warning("%s: %s did not decode; see %s", folder, counted(len(skipped), "video"), QUARANTINE)
    rows = [(video["path"], video["reason"]) for video in skipped]
    write_csv(folder / QUARANTINE, ["path", "reason"], rows)
