"""Videos and class names that a command line names.

An argument is one of these; the first that fits counts:

    -                       a list on standard input, one path or URI per line
    a path that exists      a video file, a folder of numbered images, or a folder to search
    camera:0, or 0          a camera by its index
    rtsp://..., http://...  a stream, see `live_source`
    another URI             an object, or a folder of objects to search
    videos/*.mp4            a pattern; `**` matches any number of folders

Nothing here imports PyTorch, so that a wrong name is reported at once.
"""

import collections
import dataclasses
import glob
import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from evclip_ray.class_names import normalized_name
from evclip_ray.config import ConfigError
from evclip_ray.data import storage
from evclip_ray.data.manifest.discovery import find_videos, is_system, stem
from evclip_ray.data.storage import Place
from evclip_ray.data.video.frame_folder import frame_names
from evclip_ray.formatting import counted

STREAM_SCHEMES = frozenset(("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt"))
"""Schemes of URLs that are always streams."""

# Web cameras send an endless series of JPEG images under such names, so they are no files.
_STREAM_ENDINGS = (".mjpg", ".mjpeg")
_CAMERA = re.compile(r"(?:camera:)?(\d{1,3})", re.ASCII)
_PASSWORD = re.compile(r"(://[^/@:]*:)[^/]*@")
_MAX_SHOWN = 5


class InputError(ConfigError):
    """Arguments that name no video, or names that cannot be used."""


@dataclasses.dataclass(frozen=True)
class LiveSource:
    """Camera or stream.

    Attributes:
        name: The argument.
        camera: Index of the camera; None for the URL of a stream.
    """

    name: str
    camera: int | None = None

    @property
    def shown(self) -> str:
        """The name without the password of a URL, which must not get into results and logs."""
        return _PASSWORD.sub(r"\1***@", self.name)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Videos of a command.

    Attributes:
        videos: Paths and URIs without repeats; empty with a live source.
        live: Camera or stream.
        left_out: Number of files in searched folders that are no videos, by kind: ".txt", "hidden".
    """

    videos: tuple[str, ...]
    live: LiveSource | None = None
    left_out: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


def find_inputs(arguments: Sequence[str], read_list: Callable[[], Iterable[str]]) -> Inputs:
    """Return the videos that arguments name, in the order of the arguments.

    Args:
        arguments: See the table above.
        read_list: Returns the lines of standard input; called for the argument "-".

    Raises:
        InputError: An argument names nothing, or a live source is not the only argument.
        StorageError: The storage of a URI cannot be read.
    """
    lives = [source for argument in arguments if (source := live_source(argument)) is not None]
    if lives and len(arguments) > 1:
        raise InputError(
            f"{lives[0].shown}: a camera or stream must be the only input, got {len(arguments)} arguments"
        )
    if lives:
        return Inputs((), lives[0])
    search = _Search()
    for argument in arguments:
        if argument == "-":
            search.add_list(read_list())
        else:
            search.add(argument)
    return search.result()


def live_source(argument: str) -> LiveSource | None:
    """Return the camera or stream that an argument names, None for anything else.

    A path that exists is never a camera. A web address is a stream unless its path has the ending of a video
    file: `https://host/clips/a.mp4` is a file, `https://host/live.m3u8` is a stream.

    >>> live_source("camera:1"), live_source("https://host/clips/a.mp4")
    (LiveSource(name='camera:1', camera=1), None)
    """
    if _status(argument) is not None:
        return None
    if camera := _CAMERA.fullmatch(argument):
        return LiveSource(argument, int(camera[1]))
    if not storage.is_uri(argument):
        return None
    scheme = argument.partition("://")[0].lower()
    if scheme in STREAM_SCHEMES:
        return LiveSource(argument)
    return LiveSource(argument) if scheme in ("http", "https") and not _is_web_file(argument) else None


def _is_web_file(url: str) -> bool:
    path = urlsplit(url).path
    return not path.lower().endswith(_STREAM_ENDINGS) and stem(path) != path


class _Search:
    """Collects the videos of several arguments and what is wrong with these."""

    def __init__(self) -> None:
        self._videos: dict[str, None] = {}
        self._uris: list[str] = []
        self._missing: list[str] = []
        self._left_out = collections.Counter[str]()

    def add(self, argument: str) -> None:
        """Add the videos of one argument."""
        if not self._add_named(argument):
            if glob.has_magic(argument) and not storage.is_uri(argument):
                self._add_pattern(argument)
            else:
                self._missing.append(argument)

    def add_list(self, lines: Iterable[str]) -> None:
        """Add one path or URI per line. Names in a list are no patterns, and blank lines are skipped."""
        names = [name for line in lines if (name := line.rstrip("\r\n")).strip()]
        if not names:
            raise InputError("-: standard input holds no names of videos; write one path or URI per line")
        self._missing += [name for name in names if not self._add_named(name)]

    def result(self) -> Inputs:
        """Return the collected videos.

        Raises:
            InputError: A file or object is missing.
        """
        # One bulk request for all objects, because a request for each takes as long as a small video.
        identities = storage.identities(Path(), self._uris) if self._uris else {}
        self._missing += [uri for uri in self._uris if identities[uri] is None]
        if self._missing:
            names = ", ".join(repr(name) for name in self._missing[:_MAX_SHOWN])
            more = len(self._missing) - _MAX_SHOWN
            rest = f" and {more} more" if more > 0 else ""
            hint = ""
            if any(storage.is_uri(name) and glob.has_magic(name) for name in self._missing):
                hint = "; patterns in URIs are not expanded, give the folder"
            raise InputError(f"no such video, folder or object: {names}{rest}{hint}")
        return Inputs(tuple(self._videos), left_out=self._left_out)

    def _add_named(self, name: str) -> bool:
        """Add the videos of a path or URI. Returns False if there is no such path."""
        where = storage.place(name)
        if isinstance(where, str):
            # The name of an object tells a video from a folder without a request.
            if stem(where) == where and storage.is_folder(where):
                self._add_folder(where, name)
            else:
                self._uris.append(where)
                self._videos[where] = None
            return True
        status = _status(where)
        if status is None:
            return False
        if stat.S_ISDIR(status.st_mode):
            self._add_folder(where, name)
        elif stat.S_ISREG(status.st_mode):
            self._videos[str(where)] = None
        else:
            raise InputError(f"{name}: must be a file or a folder, is a pipe or a device. Save it to a file")
        return True

    def _add_folder(self, folder: Place, name: str, *, may_be_empty: bool = False) -> None:
        left_out = collections.Counter[str]()
        videos = [str(storage.locate(folder, path)) for path, _, _ in find_videos(folder, left_out)]
        if not videos and _holds_frames(folder):
            videos = [str(folder)]
            left_out.clear()
        if not videos and not may_be_empty:
            others = ", ".join(f"{number} {kind}" for kind, number in left_out.most_common() if number)
            rest = f" (other files: {others})" if others else ""
            raise InputError(f"{name}: no video in this folder{rest}")
        self._left_out += left_out
        self._videos |= dict.fromkeys(videos)

    def _add_pattern(self, pattern: str) -> None:
        given = set(Path(pattern).parts)
        # As in a shell, `*` does not match hidden names. Folders of systems are left out as in a search.
        matches = [
            path
            for path in sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
            if not any(is_system(part) for part in {*Path(path).parts} - given)
        ]
        folders = {path for path in matches if (status := _status(path)) and stat.S_ISDIR(status.st_mode)}
        files = [path for path in matches if path not in folders]
        num_before = len(self._videos)
        self._videos |= dict.fromkeys(path for path in files if stem(path) != path)
        others = [path for path in files if stem(path) == path]
        self._left_out.update(Path(path).suffix.lower() or "without ending" for path in others)
        for folder in sorted(folders):
            self._add_folder(Path(folder), folder, may_be_empty=True)
        if len(self._videos) == num_before and not set(files) - set(others):
            shown = (
                f"matches {counted(len(others), 'file')} but no video, such as {others[0]!r}"
                if others
                else ""
            )
            raise InputError(f"{pattern}: {shown or 'no video matches this pattern'}")


def _status(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116
    # A name that is too long or holds a null character names nothing.
    except (OSError, ValueError):
        return None


def _holds_frames(folder: Place) -> bool:
    try:
        return bool(frame_names(storage.file_names(folder)))
    except ValueError:  # The reader of the folder raises the error, with its reason.
        return True


def class_names(text: str | None, file: Path | None) -> tuple[str, ...] | None:
    """Return the class names of `--classes` or `--classes-file`; None without both.

    Args:
        text: Names that are separated by commas.
        file: UTF-8 text with one name per line. Blank lines are skipped.

    Raises:
        InputError: Both are given, there is no name, two names are equal, or the file cannot be read.
    """
    if text is not None and file is not None:
        raise InputError("--classes and --classes-file exclude each other; give one of them")
    if text is None and file is None:
        return None
    option = "--classes" if file is None else f"--classes-file {file}"
    names = tuple(
        name for part in (_lines_of(file) if file else (text or "").split(",")) if (name := part.strip())
    )
    if not names:
        raise InputError(f"{option}: holds no class name; give at least one")
    seen: dict[str, str] = {}
    for name in names:
        key = normalized_name(name)
        if key in seen:
            raise InputError(f"{option}: {seen[key]!r} and {name!r} are the same class; remove one")
        seen[key] = name
    return names


def _lines_of(file: Path) -> list[str]:
    try:
        # Editors on Windows put a mark in front of UTF-8.
        return file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"--classes-file {file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"--classes-file {file}: is not UTF-8 text; write one class name per line") from None
