"""Mutated files of many containers: each is read or refused with a reason, and verify agrees with shards."""

import numpy as np
import pytest
from numbered_videos import write_numbered

from evclip_ray.data.manifest.integrity import verify_manifest
from evclip_ray.data.video.decode import VideoError, decode_views
from evclip_ray.data.video.view import ViewConfig

VIEW = ViewConfig(num_frames=4, short_side=32)
# Suffix -> codec, pixels and the muxer's name, where it does not follow from the suffix.
CONTAINERS = {
    "mp4": ("libx264", "yuv420p", None),
    "mov": ("mjpeg", "yuvj420p", None),
    "mkv": ("libx265", "yuv420p", None),
    "webm": ("libvpx-vp9", "yuv420p", None),
    "avi": ("mpeg4", "yuv420p", None),
    "ts": ("libx264", "yuv420p", None),
    "mpg": ("mpeg1video", "yuv420p", None),
    "vob": ("mpeg2video", "yuv420p", None),
    "flv": ("flv", "yuv420p", None),
    "3gp": ("h263", "yuv420p", None),
    "wmv": ("wmv2", "yuv420p", None),
    "mxf": ("mpeg2video", "yuv420p", None),
    "gif": ("gif", "rgb8", None),
    "nut": ("ffv1", "yuv420p", None),
    "qt": ("qtrle", "gray", "mov"),
}
OPTIONS = {
    "libx264": {"preset": "ultrafast", "g": "8"},
    "libx265": {"preset": "ultrafast", "x265-params": "keyint=8:log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}
NUM_MUTATIONS = 20


def mutate(data, random):
    """Return a damaged copy: bytes are changed, a piece is removed, repeated or zeroed, or the end is cut."""
    damaged = bytearray(data)
    kind = random.integers(5)
    # Headers are at the ends of a file, and they matter most.
    start = int(random.choice([random.integers(min(800, len(data))), random.integers(len(data)), -1]))
    start = start if start >= 0 else int(random.integers(max(len(data) - 800, 0), len(data)))
    length = int(random.integers(1, 64))
    if kind == 0:
        for _ in range(int(random.integers(1, 12))):
            damaged[min(start + int(random.integers(64)), len(data) - 1)] = random.integers(256)
    elif kind == 1:
        del damaged[start : start + length]
    elif kind == 2:
        damaged[start:start] = damaged[start : start + length]
    elif kind == 3:
        damaged[start : start + length] = bytes(len(damaged[start : start + length]))
    else:
        del damaged[start:]
    return bytes(damaged)


def reason_to_skip(path, start, end):
    """Return why a video is skipped; empty if it is read."""
    try:
        views = decode_views(path, view=VIEW, seeds=[None, 1], start_seconds=start, end_seconds=end)
    except VideoError as error:
        return error.reason
    assert views.shape[:2] == (2, 4)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", CONTAINERS)
def test_mutated_files_are_read_or_refused(tmp_path, suffix, make_manifest):
    codec, pixels, container = CONTAINERS[suffix]
    size = (176, 144) if codec == "h263" else (64, 48)
    good = write_numbered(
        tmp_path / f"good.{suffix}",
        codec,
        numbers=range(24),
        options=OPTIONS.get(codec),
        pixels=pixels,
        container=container,
        size=size,
    ).read_bytes()
    random = np.random.default_rng([21, *suffix.encode()])
    names = [f"{number:02d}.{suffix}" for number in range(NUM_MUTATIONS)]
    for name in names:
        (tmp_path / name).write_bytes(mutate(good, random))
    # Every second row is a part of its video.
    bounds = [(None, None) if number % 2 else (0.2, 0.7) for number in range(NUM_MUTATIONS)]
    manifest = make_manifest(
        path=[f"good.{suffix}", *names],
        label=["x"] * (NUM_MUTATIONS + 1),
        start_seconds=[None, *(start for start, _ in bounds)],
        end_seconds=[None, *(end for _, end in bounds)],
    )
    reports = list(verify_manifest(manifest, workers=1))
    assert reports[0].ok, reports[0].reason
    for report, (start, end) in zip(reports[1:], bounds, strict=True):
        assert report.ok == (not report.reason)
        assert "\n" not in report.reason
        reason = reason_to_skip(tmp_path / report.path, start, end)
        # Verify names what shards skip.
        assert not (report.ok and reason), f"{report.path}: {reason}"
        assert "\n" not in reason
