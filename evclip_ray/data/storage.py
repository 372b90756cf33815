"""Where videos and lists are: a path of this machine, or a URI such as `s3://bucket/videos`.

A URI is opened by fsspec and the package of its kind of storage, with the credentials that this package
finds (for S3 the `AWS_...` variables or `~/.aws`). What goes wrong there is told in one line that names
the URI and the cure, and is no fault of a video: it stops the work instead of skipping one.
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
"""A `Path` of this machine, or the text of a URI."""

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# What is read of an object is kept in blocks: small beside a long video, large beside a round trip.
_BLOCK_BYTES, _BLOCKS = 2**20, 32
# So many round trips at once; each of them waits far longer than it works.
_AT_ONCE = 16
_FILES = 200
# One listing names a thousand objects: above so many in one folder, it is cheaper than asking for each.
_WORTH_LISTING = 50
# By which a changed object is told, in the words of several storages.
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "mtime", "LastModified", "last_modified", "updated")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class StorageError(OSError):
    """A storage that does not answer as it must: no credentials, no access, no connection, no package."""


class Identity(NamedTuple):
    """What tells a file from its former self: bytes, and its time in ns or its object's own tag."""

    size: int
    version: int | str


def is_uri(text: Place) -> bool:
    """Whether it names a storage by its kind, as `s3://bucket/key` does."""
    return isinstance(text, str) and _URI.match(text) is not None


def place(text: Place) -> Place:
    """A path, or a URI without a slash at its end; `file:///videos` is the path `/videos`."""
    if not isinstance(text, str) or not is_uri(text):
        return Path(text)
    return Path(text.removeprefix("file://")) if text.startswith("file://") else text.rstrip("/")


def locate(root: Place, path: str) -> Place:
    """The place of a path that is relative to `root`, or is a URI itself."""
    return place(path) if is_uri(path) else place(f"{root}/{path}")


def open_binary(where: Place) -> BinaryIO:
    """A file to read and seek in; of an object, only the blocks that are read are fetched.

    Raises:
        FileNotFoundError: it is not there.
        StorageError: the storage does not answer as it must.
    """
    if isinstance(where, Path):
        return where.open("rb")
    with _told(where):
        system, path = _system(where)
        options = {"cache_type": "blockcache", "cache_options": {"maxblocks": _BLOCKS}}
        return cast(BinaryIO, _Object(where, system.open(path, "rb", block_size=_BLOCK_BYTES, **options)))


def read_bytes(where: Place) -> bytes:
    """All of a file. Raises: as `open_binary`."""
    with open_binary(where) as stream:
        return stream.read()


def is_folder(where: Place) -> bool:
    """Whether there is a folder; one of a storage holds at least one object."""
    if isinstance(where, Path):
        return where.is_dir()
    with _told(where):
        system, path = _system(where)
        return bool(system.isdir(path))


def file_names(folder: Place) -> list[str]:
    """The names of the files in a folder itself, sorted; none where it is absent.

    Raises:
        StorageError: see `open_binary`.
    """
    if isinstance(folder, Path):
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.is_dir())
    return sorted(name for name, facts in _listing(folder).items() if facts["type"] == "file")


def find_objects(root: str) -> list[str]:
    """The paths of all objects under a URI, relative to it, sorted.

    Raises:
        StorageError: see `open_binary`.
    """
    with _told(root):
        system, path = _system(root)
        return sorted(str(name).removeprefix(path).lstrip("/") for name in system.find(path))


def identities(root: Place, paths: Iterable[str]) -> dict[str, Identity | None]:
    """The identity of each file or folder of frames (its files together), None where it is absent.

    Raises:
        StorageError: see `open_binary`.
    """
    local: dict[str, str] = {}
    remote: dict[str, dict[str, str]] = {}
    for path in set(paths):
        # A Path for each of 650,000 files would take longer than asking for them.
        where = f"{root}/{path}" if isinstance(root, Path) and not is_uri(path) else locate(root, path)
        if isinstance(where, Path) or not is_uri(where):
            local[path] = str(where)
        else:
            folder, _, name = where.rpartition("/")
            remote.setdefault(folder, {})[name] = path
    # In threads, for the sake of network file systems, where each answer takes milliseconds.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # Many at a time: a task for each of 650,000 files would cost more than asking for them.
        paths = [*local.values()]
        parts = [paths[start : start + _FILES] for start in range(0, len(paths), _FILES)]
        facts_of_files = itertools.chain.from_iterable(pool.map(_of_files, parts))
        found = dict(zip(local, facts_of_files, strict=True))
        for names, facts in zip(remote.values(), pool.map(_of_objects, remote, remote.values()), strict=True):
            found |= {path: facts[name] for name, path in names.items()}
    return found


class _Object(io.RawIOBase):
    """An object of a storage, open for reading, whose errors name it."""

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
        with _told(self.name):
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
    # Listings are not kept: what is added or edited meanwhile must be seen.
    system, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    return system, str(path)


@contextlib.contextmanager
def _told(uri: str) -> Iterator[None]:
    """Whatever a storage raises, as one of two errors in one line."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such object; check the URI and its bucket", uri) from None
    except ImportError:
        kind = uri.partition("://")[0]
        package = f"'evclip-ray[{_EXTRAS[kind]}]'" if kind in _EXTRAS else "the package of fsspec for it"
        raise StorageError(f"{uri}: {kind}:// needs another package: pip install {package}") from None
    except Exception as error:  # Each storage has errors of its own; here all mean that it cannot be read.
        raise StorageError(f"{uri}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, PermissionError) or "credential" in text.lower():
        return (
            f"access denied ({text}); give credentials that may read and list it, for S3 as"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for gs:// as GOOGLE_APPLICATION_CREDENTIALS"
        )
    if isinstance(error, ValueError) and "rotocol" in text:
        return f"{text}; use s3://, gs://, or another kind of storage that fsspec knows"
    return f"cannot be read ({text}); check the connection, and run again: what is finished is kept"


def _listing(folder: str) -> dict[str, dict[str, Any]]:
    """Name -> facts, of the objects and folders in a folder itself."""
    with _told(folder):
        system, path = _system(folder)
        try:
            entries = system.ls(path, detail=True)
        except FileNotFoundError:
            return {}
    return {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in entries}


def _of_files(paths: list[str]) -> list[Identity | None]:
    return [_of_file(path) for path in paths]


def _of_file(path: str) -> Identity | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        return Identity(status.st_size, status.st_mtime_ns)
    with os.scandir(path) as entries:
        frames = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    return _together((name, Identity(facts.st_size, facts.st_mtime_ns)) for name, facts in frames)


def _of_objects(folder: str, names: Iterable[str]) -> dict[str, Identity | None]:
    names = list(names)
    listed = _listing(folder) if len(names) > _WORTH_LISTING else None
    found: dict[str, Identity | None] = {}
    for name in names:
        facts = _facts(f"{folder}/{name}") if listed is None else listed.get(name)
        if facts is None:
            found[name] = None
        elif facts["type"] == "directory":
            frames = _listing(f"{folder}/{name}").items()
            found[name] = _together(
                (frame, _identity(facts)) for frame, facts in frames if facts["type"] == "file"
            )
        else:
            found[name] = _identity(facts)
    return found


def _facts(uri: str) -> dict[str, Any] | None:
    with _told(uri):
        system, path = _system(uri)
        try:
            return dict(system.info(path))
        except FileNotFoundError:
            return None


def _identity(facts: dict[str, Any]) -> Identity:
    version = next((facts[name] for name in _VERSIONS if facts.get(name)), "")
    return Identity(int(facts["size"]), str(version))


def _together(frames: Iterable[tuple[str, Identity]]) -> Identity:
    found = sorted(frames)
    return Identity(sum(identity.size for _, identity in found), digest(found))
