"""Access to videos and manifests by a local path or by a URI such as `s3://bucket/videos`.

A URI is opened by fsspec and the package of its storage, with the credentials that this package finds (for
S3 the `AWS_...` variables or `~/.aws`). A storage error is one line with the URI and the fix. It stops the
work instead of skipping a video, because the video is not the cause.
"""

import contextlib
import errno
import io
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec

from evclip_ray.artifacts import digest

Place = Path | str
"""A local `Path`, or a URI as text."""

# Errors of the machine, which every other file would have too. EIO is none of them, because FFmpeg also
# reports damaged files by it.
STORAGE_IS_LOST = (
    *(errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOTCONN),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EREMOTEIO),
)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Objects are read and cached in blocks: small compared with a long video, and large enough to be worth a
# round trip.
_BLOCK_BYTES, _BLOCKS = 2**20, 32
# Threads for round trips, which mostly wait.
_NUM_THREADS = 16
_FILES_PER_TASK = 200
# One listing returns a thousand objects: above this number it is cheaper than one request per object.
_WORTH_LISTING = 50
# Above this number, objects in small folders are listed with their parent folders. Fewer take half a minute
# with one request each, and the parent may contain far more objects than are wanted.
_WORTH_MERGING = 10_000
# Names of the version of an object in several storages.
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "mtime", "LastModified", "last_modified", "updated")
_RIGHTS = {"read": "read and list", "written": "write and list"}
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class StorageError(OSError):
    """A storage that cannot be read: no credentials, no access, no connection, or a missing package."""


class Identity(NamedTuple):
    """Identity of a file's content: bytes, and modification time in ns or version tag."""

    size: int
    version: int | str


def is_uri(text: Place) -> bool:
    """Return whether a text is a URI, such as `s3://bucket/key`."""
    return isinstance(text, str) and _URI.match(text) is not None


def place(text: Place) -> Place:
    """Return a path, or a URI without a trailing slash; `file:///videos` is the path `/videos`."""
    if not isinstance(text, str) or not is_uri(text):
        return Path(text)
    return Path(text.removeprefix("file://")) if text.startswith("file://") else text.rstrip("/")


def locate(root: Place, path: str) -> Place:
    """Return the location of a path that is relative to `root` or is a URI."""
    return place(path) if is_uri(path) else place(f"{root}/{path}")


def open_binary(where: Place) -> BinaryIO:
    """Open a file for reading and seeking; of an object, only the blocks that are read are fetched.

    Raises:
        FileNotFoundError: there is no such file or object.
        StorageError: the storage cannot be read.
    """
    if isinstance(where, Path):
        return where.open("rb")
    with storage_errors(where):
        system, path = _system(where)
        # The cache keeps the last blocks only, so that an open object takes at most 32 MiB of memory.
        options = {"cache_type": "blockcache", "cache_options": {"maxblocks": _BLOCKS}}
        return cast(BinaryIO, _Object(where, system.open(path, "rb", block_size=_BLOCK_BYTES, **options)))


def read_bytes(where: Place) -> bytes:
    """Read a whole file.

    Raises:
        FileNotFoundError: there is no such file or object.
        StorageError: the storage cannot be read.
    """
    with open_binary(where) as stream:
        return stream.read()


def is_folder(where: Place) -> bool:
    """Return whether a folder exists; a folder of a storage contains at least one object."""
    if isinstance(where, Path):
        return where.is_dir()
    with storage_errors(where):
        system, path = _system(where)
        return bool(system.isdir(path))


def file_names(folder: Place) -> list[str]:
    """Return the sorted names of the files directly in a folder; a missing folder of a storage has none.

    Raises:
        StorageError: the storage cannot be read.
    """
    if isinstance(folder, Path):
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.is_dir())
    return sorted(name for name, facts in _listing(folder).items() if facts["type"] == "file")


def find_objects(root: str) -> list[str]:
    """Return the sorted paths of all objects under a URI, relative to it.

    Raises:
        StorageError: the storage cannot be read.
    """
    with storage_errors(root):
        system, path = _system(root)
        return sorted(str(name).removeprefix(path).lstrip("/") for name in system.find(path))


def identities(root: Place, paths: Iterable[str]) -> dict[str, Identity | None]:
    """Return the identity of each file or folder of frames (of all its files).

    It is None if the file is absent or cannot be looked at. Decoding then skips it with the reason.

    Raises:
        StorageError: the storage cannot be read.
    """
    local: dict[str, str] = {}
    remote: dict[str, dict[str, str]] = {}
    for path in set(paths):
        # Text, because building a Path for each of 650,000 files takes longer than their `stat`.
        where = f"{root}/{path}" if isinstance(root, Path) and not is_uri(path) else locate(root, path)
        if isinstance(where, Path) or not is_uri(where):
            local[path] = str(where)
        else:
            # By folder, because one listing of a folder replaces up to a thousand requests.
            folder, _, name = where.rpartition("/")
            remote.setdefault(folder, {})[name] = path
    # Threads, because one `stat` on a network file system takes milliseconds.
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        # Many files per task: one task for each of 650,000 files costs more than their `stat`.
        paths = [*local.values()]
        parts = [paths[start : start + _FILES_PER_TASK] for start in range(0, len(paths), _FILES_PER_TASK)]
        facts_of_files = itertools.chain.from_iterable(pool.map(_of_files, parts))
        found = dict(zip(local, facts_of_files, strict=True))
        remote = _merge_small(remote)
        for names, facts in zip(remote.values(), pool.map(_of_objects, remote, remote.values()), strict=True):
            found |= {path: facts[name] for name, path in names.items()}
    return found


class _Object(io.RawIOBase):
    """Open object of a storage whose errors contain its URI."""

    def __init__(self, uri: str, stream: Any) -> None:
        self.name, self._stream = uri, stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def read(self, size: int = -1) -> bytes:
        with storage_errors(self.name):
            return bytes(self._stream.read(size))

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _system(uri: str) -> tuple[Any, str]:
    # No cache of listings, so that new and edited objects are seen.
    system, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    return system, str(path)


@contextlib.contextmanager
def storage_errors(uri: str, doing: str = "read") -> Iterator[None]:
    """Convert all errors of a storage to FileNotFoundError or StorageError, of one line each.

    Args:
        uri: Object or folder that is accessed.
        doing: "read" or "written".
    """
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such object; check the URI and its bucket", uri) from None
    except ImportError:
        kind = uri.partition("://")[0]
        package = f"'evclip-ray[{_EXTRAS[kind]}]'" if kind in _EXTRAS else "fsspec's package for it"
        raise StorageError(f"{uri}: {kind}:// needs another package: pip install {package}") from None
    except Exception as error:  # Each storage package has its own errors.
        raise StorageError(f"{uri}: {_reason(error, doing)}") from error


def _reason(error: Exception, doing: str) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, PermissionError) or "credential" in text.lower():
        return (
            f"access denied ({text}); set credentials that may {_RIGHTS[doing]} it, for S3"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for gs:// GOOGLE_APPLICATION_CREDENTIALS"
        )
    if isinstance(error, ValueError) and "rotocol" in text:
        return f"{text}; use s3://, gs://, or another kind of storage that fsspec knows"
    return f"cannot be {doing} ({text}); check the connection and run again, finished work is kept"


def _listing(folder: str) -> dict[str, dict[str, Any]]:
    """Return name -> metadata of the objects and folders directly in a folder."""
    with storage_errors(folder):
        system, path = _system(folder)
        try:
            entries = system.ls(path, detail=True)
        except FileNotFoundError:
            return {}
    # Some storages return folders with a slash at the end.
    return {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in entries}


def _of_files(paths: list[str]) -> list[Identity | None]:
    return [_of_file(path) for path in paths]


def _of_file(path: str) -> Identity | None:
    try:
        status = os.stat(path)  # noqa: PTH116
        if not stat.S_ISDIR(status.st_mode):
            return Identity(status.st_size, status.st_mtime_ns)
        with os.scandir(path) as entries:
            frames = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    except OSError as error:
        if error.errno in STORAGE_IS_LOST:
            raise
        return None
    return _together((name, Identity(facts.st_size, facts.st_mtime_ns)) for name, facts in frames)


def _merge_small(folders: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Merge folders with few wanted objects into their parents, until a listing of these is worth it.

    Args:
        folders: Folder -> name in the folder -> path.

    Returns:
        Folder -> name -> path. Names of merged folders have slashes.
    """
    merged = dict(folders)
    small = [folder for folder, names in folders.items() if len(names) <= _WORTH_LISTING]
    if sum(len(folders[folder]) for folder in small) <= _WORTH_MERGING:
        return merged
    parts = [folder.split("/") for folder in small]
    # Above the folder that all of them share, there are only other objects. Of lists, `commonprefix` returns
    # the common elements.
    shared = len(os.path.commonprefix(parts))  # noqa: RUF071
    for depth in range(max(map(len, parts)), shared, -1):
        for folder in [each for each in merged if each.count("/") == depth - 1]:
            if len(merged[folder]) <= _WORTH_LISTING:
                parent, _, last = folder.rpartition("/")
                names = {f"{last}/{name}": path for name, path in merged.pop(folder).items()}
                merged.setdefault(parent, {}).update(names)
    return merged


def _of_objects(folder: str, names: Iterable[str]) -> dict[str, Identity | None]:
    names = list(names)
    if len(names) > _WORTH_LISTING and any("/" in name for name in names):
        return _of_tree(folder, names)
    listed = _listing(folder) if len(names) > _WORTH_LISTING else None
    identities: dict[str, Identity | None] = {}
    for name in names:
        facts = _facts(f"{folder}/{name}") if listed is None else listed.get(name)
        if facts is None:
            identities[name] = None
        elif facts["type"] == "directory":
            frames = _listing(f"{folder}/{name}").items()
            identities[name] = _together(
                (frame, _identity(facts)) for frame, facts in frames if facts["type"] == "file"
            )
        else:
            identities[name] = _identity(facts)
    return identities


def _of_tree(folder: str, names: Iterable[str]) -> dict[str, Identity | None]:
    """Return the identities of objects and folders of frames from one listing of all that is in a folder."""
    with storage_errors(folder):
        system, path = _system(folder)
        entries = system.find(path, detail=True)
    files = {
        str(name).removeprefix(path).lstrip("/"): _identity(facts)
        for name, facts in entries.items()
        if facts["type"] == "file"
    }
    frames: dict[str, list[tuple[str, Identity]]] = {}
    for name, identity in files.items():
        parent, _, frame = name.rpartition("/")
        frames.setdefault(parent, []).append((frame, identity))
    return {
        name: files[name] if name in files else _together(frames[name]) if name in frames else None
        for name in names
    }


def _facts(uri: str) -> dict[str, Any] | None:
    with storage_errors(uri):
        system, path = _system(uri)
        try:
            return dict(system.info(path))
        except FileNotFoundError:
            return None


def _identity(facts: dict[str, Any]) -> Identity:
    # A storage without any version leaves the size alone, and an edit of equal size is not noticed.
    version = next((facts[name] for name in _VERSIONS if facts.get(name)), "")
    return Identity(int(facts["size"]), str(version))


def _together(frames: Iterable[tuple[str, Identity]]) -> Identity:
    # Sorted, because folders are listed in no particular order.
    ordered = sorted(frames)
    return Identity(sum(identity.size for _, identity in ordered), digest(ordered))
