"""One shard on disk: an uncompressed Arrow IPC file, one record batch a video, one row a view.

The schema's metadata hold the key of the job that wrote it. A video that did not decode leaves an empty
batch, whose metadata say why. The bytes depend on the job only, so a shard that is there under its key
needs no second look.
"""

import dataclasses
import hashlib
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evclip_ray.artifacts import digest, replacing
from evclip_ray.data import storage
from evclip_ray.data.shards.crash_guard import Attempts
from evclip_ray.data.shards.planning import decoding_work
from evclip_ray.data.storage import Place
from evclip_ray.data.video.decode import VideoError, decode_views, decoder_name, part_in
from evclip_ray.data.video.sampling import spread_offsets
from evclip_ray.data.video.view import ViewConfig

_FORMAT = 1
_KEY, _SKIPPED = b"evclip_ray.key", b"evclip_ray.skipped"


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """What one shard is made from.

    `videos`: rows of the manifest, each with its `row` number there and the `bytes` and `modified`
    time (or tag) of its file, as in `storage.Identity`, by which an edited video is noticed. `seed`: None
    spreads the views evenly over the video instead of drawing them. `decoder`: see `decoder_name`.
    """

    file: str
    videos: list[dict[str, Any]]
    view: ViewConfig
    num_views: int
    seed: int | None
    decoder: str

    @property
    def key(self) -> str:
        """The digest of everything that the shard's bytes depend on."""
        made_from = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return digest(made_from | {"view": self.view.model_dump(), "format": _FORMAT})

    @property
    def work(self) -> float:
        """How long it takes, in frames: see `decoding_work`."""
        sampled = self.num_views * self.view.num_frames
        return sum(decoding_work(video, sampled_frames=sampled) for video in self.videos)

    @property
    def num_bytes(self) -> int:
        """The size of its frames."""
        return len(self.videos) * self.num_views * int(np.prod(self.view.shape))


def schema(view: ViewConfig, key: str) -> pa.Schema:
    """The columns of a shard; `frames` is a fixed-shape tensor (T, H, W, 3) uint8."""
    return pa.schema(
        {
            "frames": pa.fixed_shape_tensor(pa.uint8(), view.shape),
            "label": pa.string(),
            "path": pa.string(),
            "row": pa.int64(),
            "view": pa.int32(),
            "split": pa.string(),
            "group": pa.string(),
        },
        metadata={_KEY: key.encode()},
    )


def view_seed(seed: int | None, video: dict[str, Any], view: int) -> int | None:
    """None for view 0, deterministic, as all are without a seed; else one for each video and view."""
    if view == 0 or seed is None:
        return None
    part = [value for name, value in part_in(video).items() if name.startswith(("start", "end"))]
    name = json.dumps([seed, video["path"], *part, view])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def write_shard(job: ShardJob, *, root: Place, folder: Path, attempts: Attempts) -> None:
    """Decode the job's videos under `root` into `folder`, whole or not at all.

    A video that does not decode is left out with its reason, as is one that earlier `attempts` found to
    end the process; its neighbours are kept. One video is in memory at a time.

    Raises:
        StorageError: a storage does not answer as it must, which is no fault of a video.
        RuntimeError: this machine decodes otherwise than the one that planned the job.
        OSError: the folder cannot be written to.
    """
    decoder = decoder_name(job.view.decoder)
    if decoder != job.decoder:
        raise RuntimeError(
            f"this machine decodes by {decoder}, the job needs {job.decoder}: install the same"
            " versions on every node"
        )
    columns = schema(job.view, job.key)
    with replacing(folder / job.file) as temporary, pa.ipc.new_file(str(temporary), columns) as writer:
        for place, video in enumerate(job.videos):
            frames, reason = _decode(job, video, root, attempts.at(place, video["path"]))
            writer.write_batch(_batch(columns, video, frames), reason and {_SKIPPED: reason})


def is_finished(path: Path, job: ShardJob) -> bool:
    """Whether `path` is a whole shard that `job` wrote."""
    try:
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            written = (reader.schema.metadata or {}).get(_KEY)
            return bool(written == job.key.encode() and reader.num_record_batches == len(job.videos))
    except (OSError, pa.ArrowInvalid):
        return False


def skip_reasons(path: Path) -> dict[int, str]:
    """The videos of a shard that did not decode: their place in the job -> the reason."""
    reasons = {}
    with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
        for place in range(reader.num_record_batches):
            _, metadata = reader.get_batch_with_custom_metadata(place)
            if metadata is not None and _SKIPPED in metadata:
                reasons[place] = metadata[_SKIPPED].decode()
    return reasons


def _decode(
    job: ShardJob, video: dict[str, Any], root: Place, attempt: AbstractContextManager[None]
) -> tuple[NDArray[np.uint8], str | None]:
    """The views of a video, or none and the reason."""
    seeds = [view_seed(job.seed, video, view) for view in range(job.num_views)]
    offsets = spread_offsets(job.num_views) if job.seed is None else None
    where = storage.locate(root, video["path"])
    try:
        with attempt:
            return decode_views(where, view=job.view, seeds=seeds, offsets=offsets, **part_in(video)), None
    except VideoError as error:
        reason = error.reason
    except MemoryError:
        reason = "needs more memory than there is"
    return np.empty((0, *job.view.shape), dtype=np.uint8), reason


def _batch(columns: pa.Schema, video: dict[str, Any], frames: NDArray[np.uint8]) -> pa.RecordBatch:
    num_views = len(frames)
    tensor = columns.field("frames").type
    flat = pa.FixedSizeListArray.from_arrays(pa.array(frames.ravel()), int(np.prod(frames.shape[1:])))
    values: dict[str, Any] = {name: [video[name]] * num_views for name in columns.names if name in video}
    values["view"] = list(range(num_views))
    arrays = [pa.array(values[field.name], field.type) for field in columns if field.name != "frames"]
    return pa.record_batch([pa.ExtensionArray.from_storage(tensor, flat), *arrays], schema=columns)
