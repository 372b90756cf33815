"""Manifest -> Ray Data -> shards of decoded views.

One row of the Ray dataset is one shard to write. Its task decodes its videos one by one, so that a bad
one costs nobody else's work. A shard's bytes depend on its inputs only, never on the cluster: a
preparation that was killed is run again, keeps what is finished, and ends with the same files.
"""

import csv
import errno
import io
import logging
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evclip_ray.artifacts import LEDGER, ArtifactError, digest, read_ledger, write_ledger, write_text
from evclip_ray.data.decode import decoder_name
from evclip_ray.data.manifest import Manifest
from evclip_ray.data.shard_files import ShardJob, is_finished, skip_reasons, write_shard
from evclip_ray.data.shard_set import INDEX_SCHEMA, STAGE, ShardSet, open_shards, write_index
from evclip_ray.data.view import ViewConfig

__all__ = ["ShardSet", "open_shards", "prepare_shards"]

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

QUARANTINE = "quarantine.csv"
# Small enough to share out evenly and to lose little on a kill, large enough to be few files.
_SHARD_BYTES = 64 * 2**20


def prepare_shards(
    manifest: Manifest,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
    *,
    view: ViewConfig,
    folder: Path | str,
    num_views: int = 1,
    seed: int | None = 0,
    rows_per_shard: int | None = None,
    progress: Progress | None = None,
) -> ShardSet:
    """Decode V = `num_views` views of the manifest's rows (or of `indices`) into `folder`, once.

    View 0 is the deterministic one; the others are drawn by (`seed`, video, view). With `seed` None none
    is drawn: they are spread evenly over the video, for evaluation. What is finished is kept; when all
    is, Ray is not needed. `folder` and the manifest's root must be seen by every node
    under the same path. Videos that do not decode are listed in `quarantine.csv` and the ledger.
    `rows_per_shard`: videos a file, by default about 64 MiB. `progress`: called with videos done and
    videos in all.

    Raises:
        ValueError: Ray is needed and not started, or no video decodes.
        ArtifactError: the folder was made from other inputs.
        OSError: the folder is full; finished shards are kept.
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
        "decoder": decoder_name(),
    }
    _refuse_other(folder, inputs)
    jobs = [
        ShardJob(f"shard-{number:05d}.arrow", videos[start : start + rows_per_shard],
                 view, num_views, seed, decoder_name())
        for number, start in enumerate(range(0, len(videos), rows_per_shard))
    ]  # fmt: skip
    missing = [job for job in jobs if not is_finished(folder / job.file, job)]
    if missing or not (folder / LEDGER).exists():
        done = len(videos) - sum(len(job.videos) for job in missing)
        for count in _write_all(missing, manifest.root, folder):
            done += count
            if progress is not None:
                progress(done, len(videos))
        _finish(folder, jobs, inputs)
    return open_shards(folder)


def _videos(manifest: Manifest, indices: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The rows to decode, each with its number and the size and time of its file (None where absent)."""
    rows = manifest.select(indices).rows()

    def facts(row: dict[str, Any]) -> tuple[int | None, int | None]:
        try:
            status = (manifest.root / row["path"]).stat()
        except OSError:
            return None, None
        return status.st_size, status.st_mtime_ns

    # In threads, for the sake of network file systems, where each answer takes milliseconds.
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(facts, rows)
    return [
        row | {"row": int(index), "bytes": size, "modified": modified}
        for row, index, (size, modified) in zip(rows, indices, found, strict=True)
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


def _write_all(jobs: list[ShardJob], root: Path, folder: Path) -> Iterator[int]:
    """Write the shards on the cluster; yields the number of videos of each one that is done."""
    if not jobs:
        return
    import ray
    import ray.data

    if not ray.is_initialized():
        raise ValueError("preparing shards needs Ray, which is not started: call ray.init() first")
    free, needed = shutil.disk_usage(folder).free, sum(job.num_bytes for job in jobs)
    if free < needed:
        raise _full(folder, f"{needed / 2**30:.1f} GiB are needed, {free / 2**30:.1f} GiB are free")
    logger.info("%s: writing %d shards by %s", folder, len(jobs), decoder_name())
    items = [{"job": pickle.dumps((job, root, folder))} for job in jobs]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(_run, num_cpus=1)
    dataset.context.enable_progress_bars = False
    for result in dataset.iter_rows():
        if result["full"]:
            raise _full(folder, "it filled up while writing")
        yield int(result["videos"])


def _run(row: dict[str, Any]) -> dict[str, Any]:
    """One task: write one shard. A full disk comes back as a result, as Ray would wrap the error."""
    job, root, folder = pickle.loads(row["job"])
    try:
        write_shard(job, root=root, folder=folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return {"videos": 0, "full": True}
    return {"videos": len(job.videos), "full": False}


def _full(folder: Path, reason: str) -> OSError:
    message = f"no space for shards ({reason}); finished ones are kept: make room and run again"
    return OSError(errno.ENOSPC, message, str(folder))


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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "reason"])
    writer.writerows([video["path"], video["reason"]] for video in skipped)
    write_text(folder / QUARANTINE, text.getvalue())
