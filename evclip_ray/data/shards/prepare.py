"""Manifest -> Ray Data -> shards of decoded views.

Each task of the Ray dataset takes one shard after another from a queue, so that none waits for the
others and all end together. It decodes their videos one by one, so that a bad one costs nobody else's
work. A shard's bytes depend on its inputs only, never on the cluster: a preparation that was killed is
run again, keeps what is finished, and ends with the same files.
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
from evclip_ray.data.shards.crash_guard import Attempts
from evclip_ray.data.shards.dataset import INDEX_SCHEMA, STAGE, ShardSet, open_shards, write_index
from evclip_ray.data.shards.format import ShardJob, is_finished, skip_reasons, write_shard
from evclip_ray.data.shards.planning import TASK_FRAMES, count_tasks, cut, decoding_work
from evclip_ray.data.shards.ray_nodes import count_cpus, only_on, require_ray, require_seen
from evclip_ray.data.shards.shard_queue import ShardQueue
from evclip_ray.data.storage import Place, StorageError
from evclip_ray.data.video.decode import decoder_name
from evclip_ray.data.video.view import ViewConfig

__all__ = ["ShardSet", "open_shards", "prepare_shards"]

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

QUARANTINE = "quarantine.csv"
# Small enough to share out evenly and to lose little on a kill, large enough to be few files.
_SHARD_BYTES = 64 * 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclasses.dataclass(frozen=True)
class Writing:
    """How shards are written, the same for all tasks.

    `queue`: the actor that gives them out, None where each task's first one is all. `run` names the
    preparation, whose attempts at a shard are one story.
    """

    queue: Any
    root: Place
    folder: Path
    seconds_per_video: float
    run: str

    def take(self, task: int, place: int) -> bytes | None:
        """The shard at a place in what a task does after its first, None where nothing is left for it."""
        if self.queue is None:
            return None
        # ray.get would give the task's CPU away for as long as it waits.
        taken: bytes | None = self.queue.take.remote(task, place).future().result()
        return taken

    def write(self, job: ShardJob) -> None:
        """Write a shard, unless an earlier attempt did."""
        if is_finished(self.folder / job.file, job):
            return
        require_seen(job, self.root)
        tried = self.folder / f".{job.file}.{self.run}.attempts"
        with Attempts(tried, seconds=self.seconds_per_video) as attempts:
            write_shard(job, root=self.root, folder=self.folder, attempts=attempts)


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
    """Decode V = `num_views` views of the manifest's rows (or of `indices`) into `folder`, once.

    View 0 is the deterministic one; the others are drawn by (`seed`, video, view). With `seed` None none
    is drawn: they are spread evenly over the video, for evaluation. What is finished is kept; when all
    is, Ray is not needed. `folder` and the manifest's root must be seen by every node that decodes,
    under the same path: by those of `nodes`, their ids in Ray, or by all where none is named. Videos that
    do not decode are listed in `quarantine.csv` and the ledger, as are those that crash the decoder or
    take it longer than `seconds_per_video`.
    `rows_per_shard`: videos a file at most, by default about 64 MiB. `progress`: called with videos done
    and videos in all.

    Raises:
        ValueError: Ray is needed and not started, or no video decodes.
        ArtifactError: the folder was made from other inputs.
        OSError: the folder is full, or a storage does not answer; finished shards are kept.
    """
    if num_views < 1 or (rows_per_shard is not None and rows_per_shard < 1):
        raise ValueError(f"num_views and rows_per_shard must be 1 or more, got {num_views}, {rows_per_shard}")
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    rows_per_shard = rows_per_shard or max(_SHARD_BYTES // (num_views * int(np.prod(view.shape))), 1)
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
    if missing or not (folder / LEDGER).exists():
        done = len(videos) - sum(len(job.videos) for job in missing)
        with _told_when_full(folder, missing):
            for count in _write_all(missing, manifest.root, folder, seconds_per_video, nodes):
                done += count
                if progress is not None:
                    progress(done, len(videos))
            _finish(folder, jobs, inputs)
    return open_shards(folder)


def _videos(manifest: Manifest, indices: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The rows to decode, each with its number and the size and time of its file (None where absent)."""
    rows = manifest.select(indices).rows()
    found = storage.identities(manifest.root, (row["path"] for row in rows))
    facts = [found[row["path"]] or (None, None) for row in rows]
    return [
        row | {"row": int(index), "bytes": size, "modified": version}
        for row, index, (size, version) in zip(rows, indices, facts, strict=True)
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
            " name another folder, or delete this one; deleting only its ledger.json keeps the shards"
            " that need no change"
        )


def _write_all(
    jobs: list[ShardJob], root: Place, folder: Path, seconds_per_video: float, nodes: Sequence[str]
) -> Iterator[int]:
    """Write the shards on the cluster; yields the number of videos of each that is done."""
    if not jobs:
        return
    import ray

    require_ray("shards")
    if shutil.disk_usage(folder).free < sum(job.num_bytes for job in jobs):
        raise OSError(errno.ENOSPC, "too little space")
    logger.info("%s: writing %d shards by %s", folder, len(jobs), jobs[0].decoder)
    try:
        yield from _run_all(jobs, root, folder, seconds_per_video, nodes)
    except ray.exceptions.TaskUnschedulableError:
        logger.warning("%s: the nodes for decoding are lost; any node decodes what is left", folder)
        left = [job for job in jobs if not is_finished(folder / job.file, job)]
        yield from _run_all(left, root, folder, seconds_per_video, ())


def _run_all(
    jobs: list[ShardJob], root: Place, folder: Path, seconds_per_video: float, nodes: Sequence[str]
) -> Iterator[int]:
    """Write shards on `nodes`, on any where none is named; yields the number of videos of each."""
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Longest first, so that no long one is waited for while the other processes have nothing left.
    ordered = sorted(((job.work, job) for job in jobs), key=lambda pair: -pair[0])
    pickled = [pickle.dumps(job) for _, job in ordered]
    count = count_tasks([work for work, _ in ordered], processes=count_cpus(nodes))
    # Each task has its first one with it, so that none waits until the queue's process is up.
    first, left, queue = pickled[:count], pickled[count:], None
    if left:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        queue = ray.remote(ShardQueue).options(num_cpus=0, scheduling_strategy=here).remote(left)
    # What killed a process of an earlier preparation may have been whoever ended that one.
    writing = Writing(queue, root, folder, seconds_per_video, run=uuid.uuid4().hex)
    tasks = [{"task": number, "first": job} for number, job in enumerate(first)]
    dataset = ray.data.from_items(tasks, override_num_blocks=count).flat_map(
        _run, fn_kwargs={"writing": writing}, num_cpus=1, **only_on(nodes)
    )
    dataset.context.enable_progress_bars = False
    # A row is told when it is there, not when there are many.
    dataset.context.target_max_block_size = 1
    # Another study may have the CPUs for longer than Ray Data would wait.
    dataset.context.execution_no_progress_timeout_s = -1
    for result in dataset.iter_rows():
        if result["storage"]:
            raise StorageError(result["storage"])
        if result["full"]:
            raise OSError(errno.ENOSPC, "it filled up")
        yield int(result["videos"])


def _run(row: dict[str, Any], *, writing: Writing) -> Iterator[dict[str, Any]]:
    """One task: write its first shard, then the next one until it has done enough; a row for each.

    A disk or storage at fault is a row, as Ray would wrap the error.
    """
    done, place = 0.0, 0
    taken: bytes | None = row["first"]
    while taken is not None:
        job: ShardJob = pickle.loads(taken)
        told = {"videos": 0, "full": False, "storage": ""}
        try:
            writing.write(job)
        except StorageError as error:
            yield told | {"storage": str(error)}
            return
        except OSError as error:
            if error.errno not in _FULL:
                raise
            yield told | {"full": True}
            return
        yield told | {"videos": len(job.videos)}
        done += job.work
        taken = writing.take(row["task"], place) if done < TASK_FRAMES else None
        place += 1


@contextlib.contextmanager
def _told_when_full(folder: Path, jobs: list[ShardJob]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        unwritten = sum(job.num_bytes for job in jobs if not (folder / job.file).exists())
        free = shutil.disk_usage(folder).free
        message = (
            f"no space for shards ({_size(unwritten)} are needed, {_size(free)} are free);"
            " finished ones are kept: make room and run again"
        )
        raise OSError(error.errno, message, str(folder)) from None


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def _finish(folder: Path, jobs: list[ShardJob], inputs: dict[str, Any]) -> None:
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    for job in jobs:
        if not is_finished(folder / job.file, job):
            raise ArtifactError(
                f"{folder / job.file}: a worker wrote it, but it is not here;"
                " the folder must be on storage that all nodes share"
            )
        reasons = skip_reasons(folder / job.file)
        for batch, video in enumerate(job.videos):
            if batch in reasons:
                skipped.append({"row": video["row"], "path": video["path"], "reason": reasons[batch]})
            else:
                place = {"file": job.file, "batch": batch}
                rows.append(place | {name: video[name] for name in INDEX_SCHEMA.names if name in video})
    _quarantine(folder, skipped)
    if not rows:
        raise ValueError(
            f"none of {len(skipped)} videos decodes; the first: {skipped[0]['path']}"
            f" ({skipped[0]['reason']}); see {folder / QUARANTINE}"
        )
    for left_by_a_kill in folder.glob(".shard-*"):
        left_by_a_kill.unlink()
    write_index(folder, rows, digest(inputs))
    counts = {"videos": len(rows), "skipped": len(skipped), "shards": len(jobs)}
    write_ledger(folder, STAGE, inputs=inputs, counts=counts, skipped=skipped)


def _quarantine(folder: Path, skipped: list[dict[str, Any]]) -> None:
    if not skipped:
        return
    logger.warning("%s: %d videos did not decode; see %s", folder, len(skipped), QUARANTINE)
    rows = [(video["path"], video["reason"]) for video in skipped]
    write_csv(folder / QUARANTINE, ["path", "reason"], rows)
