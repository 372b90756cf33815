"""The videos under a folder of this machine or of a storage: files, and folders of frames."""

from collections.abc import Iterator
from typing import NamedTuple

from evclip_ray.data import storage
from evclip_ray.data.frame_folder import frame_names
from evclip_ray.data.storage import Place

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".gif")
)


class Found(NamedTuple):
    """A video under a folder, relative to it. `num_frames`: of a folder of frames; None of a file."""

    path: str
    num_frames: int | None = None


def find_videos(root: Place) -> Iterator[Found]:
    """Every video file, and every folder that holds numbered images itself; links are followed.

    Raises:
        StorageError: see `storage`.
    """
    for folder, names in storage.walk(root):
        for name in names:
            if stem(name) != name:
                yield Found(f"{folder}/{name}" if folder else name)
        num_frames = _num_frames(names)
        if folder and num_frames:
            yield Found(folder, num_frames)


def stem(name: str) -> str:
    """A file's name without the suffix of a video; the name itself if it has none."""
    front, _, end = name.rpartition(".")
    return front if front and f".{end.lower()}" in VIDEO_SUFFIXES else name


def _num_frames(names: list[str]) -> int:
    try:
        return len(frame_names(names))
    except ValueError:
        # Images of two patterns: what is wrong is told when it is read.
        return len(names)
