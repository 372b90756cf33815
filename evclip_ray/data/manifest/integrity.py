"""Integrity check of the videos of a manifest and of their masks.

Every frame of every video is decoded, and views are read as for shards. A video that passes gives shards the
frames of a full decode.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evclip_ray.data.manifest.guarded_workers import run_guarded
from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.masks import MaskError, open_masks
from evclip_ray.data.video.decode import (
    Fitting,
    Part,
    Video,
    VideoInfo,
    decode_views,
    describe,
    open_video,
    part_in,
    part_of,
)
from evclip_ray.data.video.opening import VideoError, one_video
from evclip_ray.data.video.sampling import frame_indices
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.formatting import counted

# Headers round the duration and a last frame can be long, so only a clear gap means that the file was cut.
_MIN_DURATION_SHARE = 0.9
# Sampled views, as of training. Their size does not matter to the decoder.
_VIEW, _SEEDS = ViewConfig(short_side=64), (None, 0)
# Limits the number of pending tasks, so that a caller that stops early does not wait for the whole manifest.
_ROWS_PER_BATCH = 1000


@dataclasses.dataclass(frozen=True)
class VideoReport:
    """Result for one row of a manifest.

    Attributes:
        row: Row, from 0.
        path: Path of the video.
        ok: Whether the video is intact.
        reason: Reason of the failure, or empty.
        info: Facts of the video if it opens.
        mask_reason: Reason why the row's masks cannot be used; empty if they can, or if it names none.
    """

    row: int
    path: str
    ok: bool
    reason: str
    info: VideoInfo | None
    mask_reason: str = ""


def verify_manifest(
    manifest: Manifest, *, workers: int | None = None, guarded: bool = False
) -> Iterator[VideoReport]:
    """Yield a report for each row, in order.

    Args:
        manifest: Videos to decode.
        workers: Number of threads or processes, by default one per core. The decoder releases Python's
            global lock.
        guarded: Whether to decode in processes, which a decoder may crash or block. This process is forked,
            so that it should have no other threads.

    Raises:
        StorageError: A storage fails, which is not a fault of the video.
    """
    rows, count = manifest.rows(), workers or os.cpu_count() or 1

    def verify(number: int, guard: AbstractContextManager[None]) -> VideoReport:
        return _verify(manifest, number, rows[number], guard)

    if guarded:
        yield from run_guarded(verify, [row["path"] for row in rows], workers=count)
        return
    with ThreadPoolExecutor(count) as pool:
        for start in range(0, len(rows), _ROWS_PER_BATCH):
            numbers = range(start, min(start + _ROWS_PER_BATCH, len(rows)))
            yield from pool.map(lambda number: verify(number, contextlib.nullcontext()), numbers)


def _verify(
    manifest: Manifest, number: int, row: dict[str, Any], guard: AbstractContextManager[None]
) -> VideoReport:
    try:
        with guard:
            return _unguarded(manifest, number, row)
    except VideoError as error:
        return VideoReport(number, row["path"], False, error.reason, None)


def _unguarded(manifest: Manifest, number: int, row: dict[str, Any]) -> VideoReport:
    info, mask_reason = None, ""
    try:
        with open_video(manifest.locate(row["path"]), fps=row["fps"]) as video:
            info = describe(video)
            reason = _fault(video, info, part_in(row))
    except VideoError as error:
        reason = error.reason
    # The size of the frames comes from the header, which a damaged file can get wrong by any factor.
    except MemoryError:
        reason = "needs more memory than there is"
    if row["mask"] is not None:
        mask_reason = _mask_fault(manifest, row["mask"], info)
    return VideoReport(number, row["path"], not reason, reason, info, mask_reason)


def _mask_fault(manifest: Manifest, mask: str, info: VideoInfo | None) -> str:
    """Return the reason why masks cannot be used, or an empty text. Every mask is read."""
    where = manifest.locate(mask)
    try:
        with one_video(where):
            masks = open_masks(where)
            # A video that does not open has no size to compare with.
            if info is not None:
                masks.require_fit(info)
            for frame in range(masks.num_frames or 1):
                masks.read([frame])
    except (MaskError, VideoError) as error:
        return str(error)
    return ""


def _fault(video: Video, info: VideoInfo, part: Part) -> str:
    """Return the reason why a video cannot be used, or an empty text."""
    first, last = part_of(video, part)
    indices = first + np.stack([frame_indices(last - first, view=_VIEW, seed=seed) for seed in _SEEDS])
    decoded = info.num_frames
    frames: dict[int, NDArray[np.uint8]] = {}
    if not video.is_decoded:
        decoded, frames = video.decode_all(indices.ravel().tolist(), Fitting(_VIEW))
    if reason := _missing_part(info, decoded, video.declared_seconds):
        return reason
    views = decode_views(video.path, view=_VIEW, seeds=_SEEDS, **part)
    # Frames of views are reached by seeks, where that saves time.
    if frames and not all(
        np.array_equal(views[place], frames[int(index)]) for place, index in np.ndenumerate(indices)
    ):
        return "its frames after a seek differ from those of a full decode; convert it with ffmpeg"
    return ""


def _missing_part(info: VideoInfo, decoded: int, declared: float | None) -> str:
    # The packets announced more frames than the decoder returned.
    if decoded < info.num_frames:
        return (
            f"only {decoded} of {counted(info.num_frames, 'frame')} {'decodes' if decoded == 1 else 'decode'}"
        )
    if declared is not None and info.duration_seconds < _MIN_DURATION_SHARE * declared:
        return f"cut short: it ends at {info.duration_seconds:.1f} s of {declared:.1f} s"
    return ""
