"""Which videos of a manifest are broken, found by decoding every frame of each."""

import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.video.decode import Video, VideoInfo, describe, open_video, part_in, part_of
from evclip_ray.data.video.reader import VideoError

# A header rounds the duration, and a last frame may last long: only a clear gap is a cut file.
_CUT = 0.9
_AT_A_TIME = 1000


@dataclasses.dataclass(frozen=True)
class VideoReport:
    """One row of a manifest, verified: `ok`, or the `reason` why not; `info` where the file opens."""

    row: int
    path: str
    ok: bool
    reason: str
    info: VideoInfo | None


def verify_manifest(manifest: Manifest, *, workers: int | None = None) -> Iterator[VideoReport]:
    """A report for each row, in order, as they come. `workers`: threads, by default one a core.

    Threads are enough: the decoder works outside Python's lock.

    Raises:
        StorageError: a storage does not answer as it must, which is no fault of a video.
    """
    rows = manifest.rows()
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for start in range(0, len(rows), _AT_A_TIME):
            numbers = range(start, min(start + _AT_A_TIME, len(rows)))
            yield from pool.map(lambda row: _verify(manifest, row, rows[row]), numbers)


def _verify(manifest: Manifest, number: int, row: dict[str, Any]) -> VideoReport:
    info = None
    try:
        with open_video(manifest.locate(row["path"]), fps=row["fps"]) as video:
            info = describe(video)
            part_of(video, part_in(row))
            reason = _what_is_lost(video, info)
    except VideoError as error:
        reason = error.reason
    return VideoReport(number, row["path"], not reason, reason, info)


def _what_is_lost(video: Video, info: VideoInfo) -> str:
    declared = video.declared_seconds
    decoded = video.count()
    if decoded < info.num_frames:
        return f"only {decoded} of {info.num_frames} frames decode"
    if declared is not None and info.duration_seconds < _CUT * declared:
        return f"cut short: it ends at {info.duration_seconds:.1f} s of {declared:.1f} s"
    return ""
