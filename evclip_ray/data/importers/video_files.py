"""Index of the videos under a folder, and search for the video of a list entry."""

import collections
import unicodedata

from evclip_ray.class_names import normalized_name
from evclip_ray.data import storage
from evclip_ray.data.importers.annotation_files import AnnotationError
from evclip_ray.data.manifest.discovery import find_videos, stem
from evclip_ray.data.storage import Place


class VideoFiles:
    """Index of the video files and folders of frames under `root`. Links are followed.

    Attributes:
        root: Folder or URI.
        paths: Paths relative to `root`.
        num_frames: Number of frames in each folder of frames.
        unreadable: Escaped names that are not UTF-8. A manifest cannot store them.

    Raises:
        AnnotationError: `root` is not a folder.
        StorageError: See `storage`.
    """

    def __init__(self, root: Place) -> None:
        self.root = storage.place(root)
        if not storage.is_folder(self.root):
            raise AnnotationError(
                f"{root}: must be the folder of the videos, but is not a folder; check --root"
            )
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
            # By the name without its suffix, because copies of a data set differ in their container.
            self._by_name[_composed(name)].append(path)

    def find(self, listed: str, *, frames: bool = False) -> str | None:
        """Return the path of a listed video, None if there is none.

        The exact path comes first. Otherwise the file with this name and the most equal parent folders is
        chosen, with any suffix, because lists contain paths of other machines. A name without a folder
        matches in any folder. Folders are compared by `normalized_name`.

        Args:
            listed: Path or name in the list.
            frames: True to prefer a folder of frames to a video file of the same name.

        Raises:
            AnnotationError: Several files match equally well.
        """
        if listed in self.paths:
            return listed
        folder, _, name = listed.rstrip("/").rpartition("/")
        named = self._by_name.get(_composed(stem(name)), [])
        if not folder and len(named) == 1:
            return named[0]
        wanted = [normalized_name(part) for part in reversed(folder.split("/"))] if folder else []
        # If the list has folders, at least the innermost one must match.
        best = 1 if wanted else 0
        matches: list[str] = []
        # Only the preferred kind counts if there is any, else all files of this name.
        for path in [path for path in named if (path in self.num_frames) == frames] or named:
            score = _common(wanted, path) if wanted else 0
            if score >= best:
                matches = [*matches, path] if score == best else [path]
                best = score
        if len(matches) > 1:
            raise AnnotationError(
                f"{self.root}: {listed!r} may be {matches[0]!r} or {matches[1]!r};"
                " name the folder of one with --root"
            )
        return matches[0] if matches else None


def _common(wanted: list[str], path: str) -> int:
    """Return the number of equal parent folders, from the innermost on."""
    count = 0
    for one, other in zip(wanted, reversed(path.split("/")[:-1]), strict=False):
        if one != normalized_name(other):
            break
        count += 1
    return count


def _composed(name: str) -> str:
    """Return a name in the form NFC, because a Mac writes decomposed accents."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _is_utf8(path: str) -> bool:
    if path.isascii():
        return True
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
