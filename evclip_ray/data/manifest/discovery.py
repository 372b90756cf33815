"""Search for videos under a local or remote folder: video files, and folders of frames."""

import collections
import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from evclip_ray.data import storage
from evclip_ray.data.storage import Place
from evclip_ray.data.video.frame_folder import IMAGE_SUFFIXES, frame_names

logger = logging.getLogger(__name__)

VIDEO_ENDINGS = frozenset(
    (
        *("mp4", "m4v", "mov", "qt", "avi", "divx", "xvid", "mkv", "webm", "wmv", "asf", "flv", "f4v"),
        *("mpg", "mpeg", "mpe", "m1v", "m2v", "mpv", "vob", "mod", "tod", "ts", "mts", "m2ts", "m2t"),
        *("3gp", "3g2", "ogv", "ogg", "ogm", "mxf", "dv", "rm", "rmvb", "gif", "nut", "ivf"),
        *("h264", "264", "h265", "265", "hevc", "y4m", "mjpg", "mjpeg", "amv"),
    )
)
"""Endings of video files, in lower case. FFmpeg decides the format by the content of a file."""

# Folders that operating systems, file managers, storage servers and notebooks make.
_SYSTEM = frozenset(
    ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found")
)


def find_videos(
    root: Place, left_out: collections.Counter[str] | None = None
) -> Iterator[tuple[str, str, int | None]]:
    """Yield every video file and every folder of numbered images. Links are followed.

    Hidden files and folders (.Trash, ._video.mp4) and folders of systems (__MACOSX, @eaDir) are left out.

    Args:
        root: Local folder or URI.
        left_out: Receives the number of files and folders that are no videos, by kind: ".txt", "hidden".

    Yields:
        The path under `root`; the name of the folder, or of the file without its suffix; and the number of
        frames in a folder, None for a file.

    Raises:
        StorageError: See `storage`.
    """
    counts = collections.Counter[str]() if left_out is None else left_out
    for folder, names in _walk(root, counts):
        # `stem` returns a name unchanged unless it has the suffix of a video.
        files = [(name, front) for name in names if (front := stem(name)) != name]
        yield from ((f"{folder}/{name}" if folder else name, front, None) for name, front in files)
        # Pictures next to videos are posters or thumbnails, not frames.
        num_frames = 0 if files else _num_frames(names)
        if folder and num_frames:
            yield folder, stem(folder.rpartition("/")[2]), num_frames
        videos = {name for name, _ in files}
        others = [name for name in names if name not in videos]
        if num_frames:
            others = [name for name in others if PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES]
        counts.update(PurePosixPath(name).suffix.lower() or "without ending" for name in others)


def stem(name: str) -> str:
    """Return a file name without its video suffix; other names are returned unchanged."""
    front, _, end = name.rpartition(".")
    return front if front and end.lower() in VIDEO_ENDINGS else name


def is_system(name: str) -> bool:
    """Return whether a file or folder is hidden, or made by a system and not by the user."""
    return name.startswith(".") or name.lower() in _SYSTEM


def _walk(root: Place, left_out: collections.Counter[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder with files, relative to `root` ("" for `root`), and their names, both sorted.

    Links are followed. A name that is not UTF-8 has surrogates in place of its bytes.

    Raises:
        StorageError: See `open_binary`.
    """
    walk = _walk_folders(root, left_out) if isinstance(root, Path) else _walk_objects(root, left_out)
    for folder, names in walk:
        visible = [name for name in names if not is_system(name)]
        left_out["hidden"] += len(names) - len(visible)
        if visible:
            yield folder, visible


def _num_frames(names: list[str]) -> int:
    try:
        return len(frame_names(names))
    except ValueError:
        # Images of two naming patterns: the reader of the folder raises the error, with its reason.
        return len(names)


def _walk_objects(root: str, left_out: collections.Counter[str]) -> Iterator[tuple[str, list[str]]]:
    # Sorted by folder: the files of one need not be neighbours in the order of whole paths.
    inside = sorted(name.rpartition("/") for name in storage.find_objects(root))
    for folder, names in itertools.groupby(inside, key=lambda parts: parts[0]):
        if any(is_system(part) for part in folder.split("/")):
            left_out["system folder"] += 1
            continue
        yield folder, [name for _, _, name in names if name]


def _walk_folders(root: Path, left_out: collections.Counter[str]) -> Iterator[tuple[str, list[str]]]:
    entered = set()

    def log_unreadable(error: OSError) -> None:
        # `os.walk` would pass over it without a word.
        logger.warning("%s: cannot be read (%s) and is left out", error.filename, error.strerror)

    for parent, folders, names in os.walk(root, followlinks=True, onerror=log_unreadable):
        status = os.stat(parent)  # noqa: PTH116
        # A link to a parent folder would be followed forever.
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        visible = [name for name in folders if not is_system(name)]
        left_out["system folder"] += len(folders) - len(visible)
        folders[:] = sorted(visible)
        relative = os.path.relpath(parent, root).replace(os.sep, "/")
        if names:
            yield "" if relative == "." else relative, sorted(names)
