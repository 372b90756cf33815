"""Data sets of the small world: mp4 files, their manifest with splits and groups, and their true masks.

    train/bending_both_arms/000.mp4     video of a class
    train/bending_both_arms/000.npz     mask of the acting figure in each of its frames
    manifest.csv                        columns path, label, split, group and mask
    ledger.json                         settings; written last

A group is a figure with its clothes, skin and body, which acts in up to four videos of different classes. A
figure is in one split only.
"""

import dataclasses
import errno
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from evclip_ray.artifacts import LEDGER, ArtifactError, digest, read_ledger, replacing, write_ledger
from evclip_ray.data.manifest.manifest import Manifest, write_manifest
from evclip_ray.data.masks import write_masks
from evclip_ray.formatting import counted
from evclip_ray.locking import building
from evclip_ray.world.actions import ACTIONS
from evclip_ray.world.settings import WorldConfig

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

_STAGE = "world"
_FRAMES_PER_SECOND = 12
_VIDEOS_PER_FIGURE = 4
_SPLITS = ("train", "val", "test")
# Raise it when the same settings would give other videos, also because scenes are drawn in another way.
_FORMAT = 4
# Largest size of a video with its masks, in bytes per pixel of a frame.
_BYTES_PER_PIXEL = 0.2


@dataclasses.dataclass(frozen=True)
class WorldVideo:
    """Video of a data set.

    Attributes:
        path: Path relative to the folder.
        label: Class, a key of ACTIONS.
        split: "train", "val" or "test".
        group: Name of the figure.
        seed: Seed of motion, background and camera.
        look_seed: Seed of the figure.
    """

    path: str
    label: str
    split: str
    group: str
    seed: tuple[int, ...]
    look_seed: tuple[int, ...]

    @property
    def mask(self) -> str:
        """Path of the masks relative to the folder."""
        return str(Path(self.path).with_suffix(".npz"))


def list_videos(settings: WorldConfig) -> list[WorldVideo]:
    """Return the videos of a data set. Nothing is drawn.

    The seeds do not depend on domain and dial, so that the same figures make the same motions in all domains.
    """
    names = settings.class_names()
    numbers = {name: position for position, name in enumerate(ACTIONS)}
    constant = {"val": settings.val_videos, "test": settings.test_videos}
    videos = []
    for split_number, split in enumerate(_SPLITS):
        counts = settings.train_counts() if split == "train" else (constant[split],) * len(names)
        figure = 0
        for take in range(max(counts)):
            # One video of each class, in an order of their own, so that each figure has different classes.
            random = np.random.default_rng([settings.seed, split_number, take])
            order = [number for number in random.permutation(len(names)) if take < counts[number]]
            for position, number in enumerate(order):
                label = names[number]
                owner = figure + position // _VIDEOS_PER_FIGURE
                videos.append(
                    WorldVideo(
                        f"{split}/{label.replace(' ', '_')}/{take:03d}.mp4",
                        label,
                        split,
                        f"{split}-figure{owner:04d}",
                        (settings.seed, split_number, numbers[label], take),
                        (settings.seed, split_number, owner),
                    )
                )
            figure += -(-len(order) // _VIDEOS_PER_FIGURE)
    return videos


def world_folder(settings: WorldConfig, cache: Path) -> Path:
    """Return the folder of a data set in a cache."""
    return cache / "world" / f"{settings.domain}-{digest(_inputs(settings))}"


def write_world(folder: Path, settings: WorldConfig, *, progress: Progress | None = None) -> Path:
    """Write the videos of a data set, unless they exist, and return the path of `manifest.csv`.

    An incomplete folder is written again. The files of equal settings are equal on every machine.

    Args:
        folder: Folder of the videos.
        settings: Settings of the data set.
        progress: Called with the number of written videos and of all videos.

    Raises:
        ArtifactError: The folder contains videos with other settings.
        OSError: The free space is too small. The message gives the needed and the free space.
    """
    path, inputs = folder / "manifest.csv", _inputs(settings)
    # Another process may write the same videos; the second one waits and then finds them.
    with building([folder]):
        if (folder / LEDGER).exists():
            if read_ledger(folder, _STAGE)["key"] != digest(inputs):
                raise ArtifactError(f"{folder}: contains other videos; delete it or choose another folder")
            return path
        videos = list_videos(settings)
        _check_space(folder, settings, len(videos))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            written = pool.map(lambda video: _write_video(folder, video, settings), videos)
            for done, _ in enumerate(written, start=1):
                if progress is not None:
                    progress(done, len(videos))
        rows = [
            {"path": v.path, "label": v.label, "split": v.split, "group": v.group, "mask": v.mask}
            for v in videos
        ]
        write_manifest(Manifest(pa.Table.from_pylist(rows), folder, str(path)), path)
        write_ledger(folder, _STAGE, inputs=inputs, counts={"videos": len(rows)})
    videos_of_classes = f"{counted(len(rows), 'video')} of {counted(len(settings.class_names()), 'class')}"
    log.info("%s: wrote %s", folder, videos_of_classes)
    return path


def _inputs(settings: WorldConfig) -> dict[str, object]:
    return {**settings.model_dump(), "names": settings.class_names(), "format": _FORMAT}


def _check_space(folder: Path, settings: WorldConfig, num_videos: int) -> None:
    needed = num_videos * settings.num_frames * settings.size**2 * _BYTES_PER_PIXEL
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(
            errno.ENOSPC,
            f"no space for {counted(num_videos, 'video')} of the small world ({needed / 2**20:.0f} MiB are "
            f"needed, {free / 2**20:.0f} MiB are free). Free some space or name another folder by --cache.",
            str(folder),
        )


def _write_video(folder: Path, video: WorldVideo, settings: WorldConfig) -> None:
    # Drawing needs OpenCV, which planning a data set does not.
    from evclip_ray.world.scenes import draw_scene

    scene = draw_scene(
        video.label,
        seed=video.seed,
        look_seed=video.look_seed,
        domain=settings.domain,
        dial=settings.dial,
        num_frames=settings.num_frames,
        size=settings.size,
    )
    _encode(folder / video.path, scene.frames)
    write_masks(folder / video.mask, scene.actor_mask)


def _encode(path: Path, frames: NDArray[np.uint8]) -> None:
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
