"""The videos under a folder, and which of them a list means."""

import collections
import os
from collections.abc import Iterator
from pathlib import Path

from evclip_ray.data.datasets.class_names import plain
from evclip_ray.data.datasets.lists import ListError
from evclip_ray.data.manifest import VIDEO_SUFFIXES


class VideoFiles:
    """Every video file under `root`, links followed. Paths are relative to it.

    `unreadable`: names that are not UTF-8, escaped; a manifest cannot hold them.

    Raises:
        ListError: `root` is no folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ListError(f"{root}: must be the folder of the videos, and is no folder; check --root")
        self.root = root
        self.paths: set[str] = set()
        self.unreadable: list[str] = []
        self._by_name: dict[str, list[str]] = collections.defaultdict(list)
        for path in _walk(root):
            if not _is_utf8(path):
                self.unreadable.append(path.encode("utf-8", "backslashreplace").decode())
                continue
            self.paths.add(path)
            self._by_name[stem(path.rpartition("/")[2])].append(path)

    def find(self, listed: str) -> str | None:
        """The file that a list means by `listed`, None if there is none.

        That path itself; else the file of that name in a folder of that name, wherever it is and
        whatever its suffix (lists name the folders of other machines, and folders of frames). A name
        without a folder is found in any. Folders are compared by letters and digits.

        Raises:
            ListError: several files answer equally well.
        """
        if listed in self.paths:
            return listed
        folder, _, name = listed.rstrip("/").rpartition("/")
        wanted = [plain(part) for part in reversed(folder.split("/"))] if folder else []
        best = 1 if wanted else 0
        found: list[str] = []
        for path in self._by_name.get(stem(name), ()):
            score = _common(wanted, [plain(part) for part in reversed(path.split("/")[:-1])])
            if score >= best:
                found = [*found, path] if score == best else [path]
                best = score
        if len(found) > 1:
            raise ListError(
                f"{self.root}: {listed!r} may be {found[0]!r} or {found[1]!r};"
                " name the folder of one with --root"
            )
        return found[0] if found else None


def _common(wanted: list[str], folders: list[str]) -> int:
    """The number of folders that agree, from the innermost on."""
    count = 0
    for one, other in zip(wanted, folders, strict=False):
        if one != other:
            break
        count += 1
    return count


def stem(name: str) -> str:
    """A file's name without the suffix of a video; the name itself if it has none."""
    front, _, end = name.rpartition(".")
    return front if front and f".{end.lower()}" in VIDEO_SUFFIXES else name


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(root: Path) -> Iterator[str]:
    entered = set()
    for parent, folders, names in os.walk(root, followlinks=True):
        status = os.stat(parent)  # noqa: PTH116
        # A link to a folder above would be walked for ever.
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders.sort()
        prefix = os.path.relpath(parent, root).replace(os.sep, "/")
        for name in sorted(names):
            if stem(name) != name:
                yield name if prefix == "." else f"{prefix}/{name}"
