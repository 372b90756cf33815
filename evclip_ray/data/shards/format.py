"""Format of a shard: an uncompressed Arrow IPC file with one record batch per video and one row per view.

The schema's metadata hold the key of the job that wrote it. A video that did not decode has an empty batch
whose metadata hold the reason. The metadata of a video whose pixels are not square have their aspect. The
bytes depend on the job only, so a shard with the right key is valid.
"""

import dataclasses
import hashlib
import json
import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evclip_ray.artifacts import digest, replacing
from evclip_ray.data import storage
from evclip_ray.data.shards.crash_guard import CrashGuard
from evclip_ray.data.shards.planning import decoding_work
from evclip_ray.data.storage import Place
from evclip_ray.data.video.decode import (
    Video,
    VideoError,
    decode_views,
    decoder_name,
    has_other_shape,
    part_in,
)
from evclip_ray.data.video.opening import one_video
from evclip_ray.data.video.sampling import spread_offsets
from evclip_ray.data.video.view import ViewConfig

# Part of every key. Raise it when the same inputs would give other bytes.
_FORMAT = 1
_KEY, _SKIPPED, _PIXELS = b"evclip_ray.key", b"evclip_ray.skipped", b"evclip_ray.pixels"


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """Inputs of one shard.

    Attributes:
        file: Name of the shard's file.
        videos: Manifest rows, each with its number `row` and the `bytes` and `modified` time (or tag) of its
            file, as in `storage.Identity`, so that an edited video changes the key.
        view: Sampling and size of the frames.
        num_views: V, views per video.
        seed: Seed of the random views; None spreads the views evenly over the video.
        decoder: See `decoder_name`.
    """

    file: str
    videos: list[dict[str, Any]]
    view: ViewConfig
    num_views: int
    seed: int | None
    decoder: str

    @property
    def key(self) -> str:
        """Digest of everything that the shard's bytes depend on."""
        inputs = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return digest(inputs | {"view": self.view.model_dump(), "format": _FORMAT})

    @property
    def work(self) -> float:
        """Estimated work in frames: see `decoding_work`."""
        sampled = self.num_views * self.view.num_frames
        return sum(decoding_work(video, sampled_frames=sampled) for video in self.videos)

    @property
    def num_bytes(self) -> int:
        """Size of the frames, estimated if videos keep their aspect ratio."""
        return len(self.videos) * self.num_views * self.view.num_bytes


def schema(view: ViewConfig, key: str) -> pa.Schema:
    """Return the columns of a shard.

    With a fixed size, `frames` is a fixed-shape tensor (T, H, W, 3) uint8. Otherwise it holds the same bytes
    as binary, and the columns `height` and `width` hold the size.
    """
    frames: dict[str, pa.DataType] = {"frames": pa.large_binary(), "height": pa.int32(), "width": pa.int32()}
    if view.fixed_size is not None:
        frames = {"frames": pa.fixed_shape_tensor(pa.uint8(), (view.num_frames, *view.fixed_size, 3))}
    return pa.schema(
        {
            **frames,
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
    """Return the seed of one view of a video; None for a deterministic view (view 0, or no `seed`)."""
    if view == 0 or seed is None:
        return None
    # 7 bytes of the hash: a seed below 2**56, which NumPy's and torch's generators accept.
    # The bounds distinguish the parts of one video, which would otherwise all be sampled alike.
    part = [value for name, value in part_in(video).items() if name.startswith(("start", "end"))]
    name = json.dumps([seed, video["path"], *part, view])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def write_shard(job: ShardJob, *, root: Place, folder: Path, guard: CrashGuard) -> None:
    """Decode the job's videos into a temporary file and rename it to the shard.

    A video that does not decode, or that ended earlier processes, is stored as its reason. One video is in
    memory at a time.

    Args:
        job: Inputs of the shard.
        root: Root of the videos' paths.
        folder: Folder of the shards.
        guard: Guard against videos that end the process.

    Raises:
        StorageError: a storage cannot be read (the video is not the cause).
        RuntimeError: this machine's decoder differs from that of the job.
        OSError: the folder is not writable.
    """
    # The version of the decoder is part of the key. Frames of another version under this key would be reused
    # as if they were the right ones.
    decoder = decoder_name(job.view.decoder)
    if decoder != job.decoder:
        raise RuntimeError(
            f"this machine decodes with {decoder}, but the job needs {job.decoder}; install the same"
            " versions on every node"
        )
    columns = schema(job.view, job.key)
    with replacing(folder / job.file) as temporary, pa.ipc.new_file(str(temporary), columns) as writer:
        for index, video in enumerate(job.videos):
            frames, metadata = _decode(job, video, root, guard.decoding(index, video["path"]))
            # A skipped video has an empty batch, so that batch k is always video k of the job.
            writer.write_batch(_batch(columns, video, frames), metadata or None)


# The footer at the end of an Arrow file has the schema and the positions of all batches. It is written last,
# so an incomplete file has none, and the check reads a few pages only.
def is_finished(path: Path, job: ShardJob) -> bool:
    """Return whether `path` is a complete shard that `job` wrote."""
    try:
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            written = (reader.schema.metadata or {}).get(_KEY)
            return bool(written == job.key.encode() and reader.num_record_batches == len(job.videos))
    except (OSError, pa.ArrowInvalid):
        return False


class Outcome(NamedTuple):
    """Outcome of one video.

    Attributes:
        reason: Why it is skipped; empty if it is not.
        size: (H, W) of a video that kept its aspect ratio; None for a fixed size or a skipped video.
        pixel_aspect: Width of a coded pixel by its height, if players show the video in another shape. None
            if they do not, for a skipped video and in shards of earlier versions.
    """

    reason: str = ""
    size: tuple[int, int] | None = None
    pixel_aspect: str | None = None


def read_outcomes(path: Path) -> list[Outcome]:
    """Return the outcome of each video of a shard."""
    outcomes: list[Outcome] = []
    with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
        for index in range(reader.num_record_batches):
            batch, metadata = reader.get_batch_with_custom_metadata(index)
            notes = dict(metadata or {})
            if _SKIPPED in notes:
                outcomes.append(Outcome(notes[_SKIPPED].decode()))
                continue
            is_sized = "height" in batch.schema.names
            size = (batch["height"][0].as_py(), batch["width"][0].as_py()) if is_sized else None
            outcomes.append(Outcome("", size, notes[_PIXELS].decode() if _PIXELS in notes else None))
    return outcomes


def frames_of(batch: pa.RecordBatch, num_frames: int) -> NDArray[np.uint8]:
    """Return all views of a batch's video, (V, T, H, W, 3), as the pages of the file.

    Args:
        batch: Record batch of a video that decoded.
        num_frames: T, frames per view.
    """
    column = batch["frames"]
    if "height" not in batch.schema.names:
        return cast(NDArray[np.uint8], column.to_numpy_ndarray())
    shape = (len(batch), num_frames, batch["height"][0].as_py(), batch["width"][0].as_py(), 3)
    # The buffer is padded to a multiple of 8 bytes, so the frames are counted.
    return np.frombuffer(column.buffers()[2], np.uint8, count=math.prod(shape)).reshape(shape)


def _decode(
    job: ShardJob, video: dict[str, Any], root: Place, guard: AbstractContextManager[None]
) -> tuple[NDArray[np.uint8], dict[bytes, str]]:
    """Return the views of a video, (V, T, H, W, 3), with notes; of a skipped video no view and the reason."""
    seeds = [view_seed(job.seed, video, view) for view in range(job.num_views)]
    offsets = spread_offsets(job.num_views) if job.seed is None else None
    path = storage.locate(root, video["path"])
    notes: dict[bytes, str] = {}

    def note_pixels(opened: Video) -> None:
        if has_other_shape(opened.pixel_aspect):
            notes[_PIXELS] = str(opened.pixel_aspect)

    try:
        with one_video(path), guard:
            frames = decode_views(
                path, view=job.view, seeds=seeds, offsets=offsets, on_open=note_pixels, **part_in(video)
            )
            return frames, notes
    except VideoError as error:
        reason = error.reason
    # The size of the frames comes from the header, which a damaged file can get wrong by any factor.
    except MemoryError:
        reason = "needs more memory than there is"
    nothing = np.empty((0, job.view.num_frames, *(job.view.fixed_size or (0, 0)), 3), dtype=np.uint8)
    return nothing, {_SKIPPED: reason}


def _batch(columns: pa.Schema, video: dict[str, Any], frames: NDArray[np.uint8]) -> pa.RecordBatch:
    num_views, (height, width) = len(frames), frames.shape[2:4]
    values: dict[str, Any] = {name: [video[name]] * num_views for name in columns.names if name in video}
    values |= {"view": list(range(num_views)), "height": [height] * num_views, "width": [width] * num_views}
    arrays = [pa.array(values[field.name], field.type) for field in columns if field.name != "frames"]
    return pa.record_batch([_frames_column(columns.field("frames").type, frames), *arrays], schema=columns)


# Both columns are flat views of the frames: Arrow copies nothing until the batch is written.
def _frames_column(kind: pa.DataType, frames: NDArray[np.uint8]) -> pa.Array:
    num_views, num_bytes = len(frames), math.prod(frames.shape[1:])
    if isinstance(kind, pa.FixedShapeTensorType):
        flat = pa.FixedSizeListArray.from_arrays(pa.array(frames.ravel()), num_bytes)
        return pa.ExtensionArray.from_storage(kind, flat)
    offsets = np.arange(num_views + 1, dtype=np.int64) * num_bytes
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(frames))]
    return pa.Array.from_buffers(kind, num_views, buffers)
