"""Search for videos under a local or remote folder: video files, and folders of frames."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from evclip_ray.data import storage
from evclip_ray.data.storage import Place
from evclip_ray.data.video.frame_folder import frame_names

_SUFFIXES = frozenset(
    ("mp4", "m4v", "mov", "avi", "mkv", "webm", "mpg", "mpeg", "wmv", "flv", "3gp", "ts", "gif")
)


def find_videos(root: Place) -> Iterator[tuple[str, str, int | None]]:
    """Yield every video file and every folder of numbered images. Links are followed.

    Args:
        root: Local folder or URI.

    Yields:
        The path under `root`; the name of the folder, or of the file without its suffix; and the number of
        frames in a folder, None for a file.

    Raises:
        StorageError: See `storage`.
    """
    for folder, names in _walk(root):
        # `stem` returns a name unchanged unless it has the suffix of a video.
        files = [(name, front) for name in names if (front := stem(name)) != name]
        yield from ((f"{folder}/{name}" if folder else name, front, None) for name, front in files)
        # Pictures next to videos are posters or thumbnails, not frames.
        num_frames = 0 if files else _num_frames(names)
        if folder and num_frames:
            yield folder, stem(folder.rpartition("/")[2]), num_frames


def stem(name: str) -> str:
    """Return a file name without its video suffix; other names are returned unchanged."""
    front, _, end = name.rpartition(".")
    return front if front and end.lower() in _SUFFIXES else name


def _walk(root: Place) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder with files, relative to `root` ("" for `root`), and their names, both sorted.

    Links are followed. A name that is not UTF-8 has surrogates in place of its bytes.

    Raises:
        StorageError: See `open_binary`.
    """
    return _walk_folders(root) if isinstance(root, Path) else _walk_objects(root)


def _num_frames(names: list[str]) -> int:
    try:
        return len(frame_names(names))
    except ValueError:
        # Images of two naming patterns: the reader of the folder raises the error, with its reason.
        return len(names)


def _walk_objects(root: str) -> Iterator[tuple[str, list[str]]]:
    # Sorted by folder: the files of one need not be neighbours in the order of whole paths.
    inside = sorted(name.rpartition("/") for name in storage.find_objects(root))
    for folder, names in itertools.groupby(inside, key=lambda parts: parts[0]):
        yield folder, [name for _, _, name in names if name]


def _walk_folders(root: Path) -> Iterator[tuple[str, list[str]]]:
    entered = set()
    for parent, folders, names in os.walk(root, followlinks=True):
        status = os.stat(parent)  # noqa: PTH116
        # A link to a parent folder would be followed forever.
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders.sort()
        relative = os.path.relpath(parent, root).replace(os.sep, "/")
        if names:
            yield "" if relative == "." else relative, sorted(names)
