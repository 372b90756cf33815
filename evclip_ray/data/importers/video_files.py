"""The videos under a folder, and which of them a list means."""

import collections

from evclip_ray.class_names import normalized_name
from evclip_ray.data import storage
from evclip_ray.data.importers.annotation_files import ListError
from evclip_ray.data.manifest.discovery import find_videos, stem
from evclip_ray.data.storage import Place


class VideoFiles:
    """Every video file and folder of frames under `root`, links followed. Paths are relative to it.

    `num_frames`: of each folder of frames. `unreadable`: names that are not UTF-8, escaped; a manifest
    cannot hold them.

    Raises:
        ListError: `root` is no folder.
        StorageError: see `storage`.
    """

    def __init__(self, root: Place) -> None:
        self.root = storage.place(root)
        if not storage.is_folder(self.root):
            raise ListError(f"{root}: must be the folder of the videos, and is no folder; check --root")
        self.paths: set[str] = set()
        self.num_frames: dict[str, int] = {}
        self.unreadable: list[str] = []
        self._by_name: dict[str, list[str]] = collections.defaultdict(list)
        for path, name, num_frames in find_videos(self.root):
            if not _is_utf8(path):
                self.unreadable.append(path.encode("utf-8", "backslashreplace").decode())
                continue
            self.paths.add(path)
            if num_frames is not None:
                self.num_frames[path] = num_frames
            self._by_name[name].append(path)

    def find(self, listed: str, *, frames: bool = False) -> str | None:
        """The video that a list means by `listed`, None if there is none.

        That path itself; else the file of that name in a folder of that name, wherever it is and
        whatever its suffix (lists name the folders of other machines). A name without a folder is found
        in any. Folders are compared by letters and digits. Where a file and a folder of frames have the
        name, `frames` says which of them is meant.

        Raises:
            ListError: several answer equally well.
        """
        if listed in self.paths:
            return listed
        folder, _, name = listed.rstrip("/").rpartition("/")
        named = self._by_name.get(stem(name), [])
        if not folder and len(named) == 1:
            return named[0]
        wanted = [normalized_name(part) for part in reversed(folder.split("/"))] if folder else []
        best = 1 if wanted else 0
        found: list[str] = []
        for path in [path for path in named if (path in self.num_frames) == frames] or named:
            score = _common(wanted, path) if wanted else 0
            if score >= best:
                found = [*found, path] if score == best else [path]
                best = score
        if len(found) > 1:
            raise ListError(
                f"{self.root}: {listed!r} may be {found[0]!r} or {found[1]!r};"
                " name the folder of one with --root"
            )
        return found[0] if found else None


def _common(wanted: list[str], path: str) -> int:
    """The number of folders of `path` that agree, from the innermost on."""
    count = 0
    for one, other in zip(wanted, reversed(path.split("/")[:-1]), strict=False):
        if one != normalized_name(other):
            break
        count += 1
    return count


def _is_utf8(path: str) -> bool:
    if path.isascii():
        return True
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
