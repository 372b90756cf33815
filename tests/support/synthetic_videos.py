"""Small synthetic videos whose class is given by motion only, as version 0.1 wrote them for `data.synthetic`.

Tests of old studies, and tests whose numbers rest on these pixels, use them.

A textured figure moves in front of a cluttered background. Each pair of figure and background (a group)
performs every action once, with random start, speed and direction. Neither appearance nor position is
therefore informative about the class.
"""

import functools
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from evclip_ray.artifacts import LEDGER, ArtifactError, digest, read_ledger, replacing, write_ledger
from evclip_ray.data.manifest.manifest import Manifest, write_manifest
from evclip_ray.data.manifest.splits import assign_splits

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
Random = np.random.Generator
Motion = dict[str, Array]
Progress = Callable[[int, int], None]

_FRAMES_PER_SECOND = 12
# Raise it when the same settings would give other videos.
_FORMAT = 1


def _slide(time: Array, random: Random) -> Motion:
    way = random.choice([-1, 1]) * random.uniform(0.4, 0.6)
    return {"x": way * (time - 0.5)}


def _jump(time: Array, random: Random) -> Motion:
    jumps, height = random.uniform(2, 3.5), random.uniform(0.2, 0.35)
    return {"y": 0.5 * height - height * np.abs(np.sin(np.pi * jumps * time))}


def _spin(time: Array, random: Random) -> Motion:
    return {"angle": random.choice([-1, 1]) * 2 * np.pi * random.uniform(1, 2) * time}


def _grow(time: Array, random: Random) -> Motion:
    return {"scale": random.uniform(1.8, 2.4) ** (time - 0.5)}


def _flicker(time: Array, random: Random) -> Motion:
    waves = np.sin(2 * np.pi * (random.uniform(2.2, 3.2) * time + random.uniform()))
    return {"light": np.where(waves > 0, 1.0, 0.15)}


ACTIONS: dict[str, Callable[[Array, Random], Motion]] = {
    "standing still": lambda _time, _random: {},
    "sliding sideways": _slide,
    "jumping up and down": _jump,
    "spinning around": _spin,
    "growing bigger": _grow,
    "flickering in place": _flicker,
}
"""Action -> function of the time (N,) from 0 to 1 that returns the changes of the figure's pose.

`x` and `y` are shares of the frame's side, `angle` is in radians, `scale` and `light` are factors.
"""


def write_synthetic(
    folder: Path,
    *,
    videos_per_class: int = 16,
    size: int = 96,
    num_frames: int = 24,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Write the videos and their manifest, unless they exist, and return the path of `manifest.csv`.

    Args:
        folder: Folder of the videos.
        videos_per_class: Videos per class and number of groups, which are split about 6 : 2 : 2.
        size: Side of the frames in pixels, even.
        num_frames: Frames per video.
        seed: Seed of all draws; it gives the same pictures on every machine.
        progress: Called with the number of written videos and of all videos.

    Raises:
        ValueError: fewer than 3 videos per class (one group per split), a side that is odd or less than
            32 pixels, or fewer than 8 frames.
        ArtifactError: the folder contains videos with other settings.
    """
    if videos_per_class < 3 or size < 32 or size % 2 or num_frames < 8:
        raise ValueError(
            "synthetic videos need videos_per_class >= 3, an even size >= 32 and num_frames >= 8,"
            f" got {videos_per_class}, {size} and {num_frames}"
        )
    settings = {"videos_per_class": videos_per_class, "size": size, "num_frames": num_frames, "seed": seed}
    inputs = {"actions": list(ACTIONS), **settings, "format": _FORMAT}
    path = folder / "manifest.csv"
    if (folder / LEDGER).exists():
        if read_ledger(folder, "synthetic")["key"] != digest(inputs):
            raise ArtifactError(
                f"{folder}: contains other synthetic videos; delete it or choose another folder"
            )
        return path
    rows: list[dict[str, Any]] = []
    write = functools.partial(_write_group, folder, size=size, num_frames=num_frames, seed=seed)
    # Threads, because the encoder and most NumPy functions release the GIL.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for written in pool.map(write, range(videos_per_class)):
            rows += written
            if progress is not None:
                progress(len(rows), videos_per_class * len(ACTIONS))
    manifest = Manifest(pa.Table.from_pylist(rows), folder, str(path))
    # The draw of version 0.1, so that the splits are those of the folders that are already in caches, and the
    # published numbers of the quickstart stay the same.
    write_manifest(assign_splits(manifest, seed=seed, legacy=True), path)
    write_ledger(folder, "synthetic", inputs=inputs, counts={"videos": len(rows)})
    logger.info("%s: wrote %d synthetic videos of %d actions", folder, len(rows), len(ACTIONS))
    return path


def _write_group(folder: Path, group: int, *, size: int, num_frames: int, seed: int) -> list[dict[str, Any]]:
    # All actions of a group share one look, so that appearance does not reveal the action. The seeds are
    # keys, not a sequence, so that the order in which threads run has no effect.
    look = np.random.default_rng([seed, group])
    background, figure = _background(size, look), _texture(size // 2, look)
    rows = []
    for number, action in enumerate(ACTIONS):
        random = np.random.default_rng([seed, group, number])
        name = f"{action.replace(' ', '_')}/{group:03d}.mp4"
        _write_video(folder / name, _frames(action, background, figure, num_frames, random))
        rows.append({"path": name, "label": action, "group": f"figure{group:03d}"})
    return rows


def _background(size: int, random: Random) -> Array:
    """Draw (size, size, 3) in [0, 255]: smooth noise with a clutter of rectangles."""
    image = _soft_noise(size, 6, random) * 0.6 + random.uniform(20, 160, 3)
    for _ in range(12):
        top, left = random.integers(0, size, 2)
        height, width = random.integers(size // 12, size // 4, 2)
        image[top : top + height, left : left + width] = random.uniform(0, 255, 3)
    return np.clip(image, 0, 255)


def _texture(size: int, random: Random) -> Array:
    """Draw (size, size, 4): the figure's colours in [0, 255] and its mask, 0 or 1, an irregular circle."""
    colours = _soft_noise(size, 4, random) * 1.2 + random.uniform(40, 215, 3)
    y, x = (np.mgrid[:size, :size] + 0.5) / size * 2 - 1
    angle = np.arctan2(y, x)
    lumps = [random.uniform(0, 0.16) * np.cos(k * angle + random.uniform(0, 6.3)) for k in (1, 2, 3, 5)]
    inside = np.hypot(x, y) < 0.7 + np.sum(lumps, axis=0)
    return np.concatenate([np.clip(colours, 0, 255), inside[..., None]], axis=-1)


def _soft_noise(size: int, cells: int, random: Random) -> Array:
    """Draw (size, size, 3) in [-127, 127]: random colours on a coarse grid, interpolated linearly."""
    grid = random.uniform(-127, 127, (cells + 1, cells + 1, 3))
    coordinates = np.linspace(0, cells, size, endpoint=False)
    low, part = coordinates.astype(int), (coordinates % 1)[:, None]
    rows = grid[low] * (1 - part[..., None]) + grid[low + 1] * part[..., None]
    blended: Array = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    return blended


def _frames(
    action: str, background: Array, figure: Array, num_frames: int, random: Random
) -> NDArray[np.uint8]:
    """Draw the frames of a video, (N, size, size, 3), with the noise of a camera."""
    pose = {"x": random.uniform(0.4, 0.6), "y": random.uniform(0.4, 0.6), "angle": random.uniform(-0.6, 0.6)}
    start = pose | {"scale": random.uniform(0.8, 1.2), "light": 1.0}
    changes = ACTIONS[action](np.linspace(0, 1, num_frames), random)
    images = []
    for number in range(num_frames):
        pose = dict(start)
        for name, values in changes.items():
            moved = float(values[number])
            pose[name] = pose[name] * moved if name in ("scale", "light") else pose[name] + moved
        images.append(_draw(background, figure, **pose))
    # The noise makes the frames of "standing still" differ too, as those of a real camera do.
    noisy = np.stack(images) + random.normal(0, 3, (num_frames, *background.shape))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _draw(
    background: Array, figure: Array, *, x: float, y: float, angle: float, scale: float, light: float
) -> Array:
    """Draw the figure over the background, with nearest-neighbour lookup of its texture."""
    size, side = len(background), len(figure)
    # Inverse mapping: each pixel of the frame looks up its position in the figure, which leaves no holes.
    down, right = np.mgrid[:size, :size] + 0.5 - size * np.array([y, x])[:, None, None]
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    row = np.floor(cos * down - sin * right + side / 2).astype(int)
    column = np.floor(sin * down + cos * right + side / 2).astype(int)
    covered = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    looked_up = figure[np.clip(row, 0, side - 1), np.clip(column, 0, side - 1)]
    outline = (covered & (looked_up[..., 3] > 0))[..., None]
    return np.where(outline, looked_up[..., :3] * light, background)


def _write_video(path: Path, frames: NDArray[np.uint8]) -> None:
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=_FRAMES_PER_SECOND)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # asm=0: x264's assembly does not always give the same bytes for the same pictures; its C code does.
        stream.options = {"preset": "veryfast", "crf": "20", "threads": "1", "x264-params": "asm=0"}
        # One reformatter for all frames; `VideoFrame.reformat` would set up a conversion for each frame.
        reformatter = VideoReformatter()
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(reformatter.reformat(picture, format="yuv420p")))
        container.mux(stream.encode())
