"""Search for the files of a list: spelling of names, folder that paths start from, sample of missing ones.

Paths often come from another machine. `fit_paths` compares a sample of them with the disk when a list is
read, and `check_files` before anything is decoded. Both open no file and look at a bounded number of them.
"""

import itertools
import logging
import os
import shlex
import time
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evclip_ray.data import storage
from evclip_ray.data.manifest.discovery import is_system
from evclip_ray.data.manifest.validation import ManifestError
from evclip_ray.data.storage import Place, is_uri
from evclip_ray.formatting import counted

logger = logging.getLogger(__name__)

_SAMPLE = 64
# Each object of a storage is one request.
_REMOTE_SAMPLE = 32
_NUM_THREADS = 16
_MAX_PARENTS = 3
_MAX_DEPTH = 3
_MAX_FOLDERS = 3000
_MAX_ENTRIES = 5000
_MAX_SECONDS = 3.0


class Missing(NamedTuple):
    """Missing files of a sample.

    Attributes:
        rows: Rows of the sampled files that do not exist.
        sampled: Number of sampled files.
        total: Number of files that the sample is from.
    """

    rows: list[int]
    sampled: int
    total: int


def fit_paths(table: pa.Table, root: Path, source: str, *, is_chosen: bool) -> pa.Table:
    """Return the table with paths as the disk has them.

    Absolute paths outside the root become URIs. Names that the disk has in another Unicode form get that
    form. If none of a sample exists under a chosen root, but all do without some leading folders, these are
    removed: `/home/other/videos/hug/1.mp4` becomes `hug/1.mp4`.

    Args:
        table: Columns path, and mask if there are masks.
        root: Absolute local folder that relative paths start from.
        source: List, for messages.
        is_chosen: Whether a person named the root. Without this consent, no path is shortened, because
            another video may have the shorter path.
    """
    for name in {"path", "mask"} & {*table.column_names}:
        table = _with(table, name, pc.utf8_trim_whitespace(table[name]))
    prefix = _foreign_prefix(table["path"], root) if is_chosen else ""
    if prefix:
        logger.warning("%s: the paths are read without %r, under %s", source, prefix, root)
    for name in ("path", "mask"):
        if name in table.column_names:
            paths = table[name]
            if prefix:
                rest = pc.utf8_slice_codeunits(paths, len(prefix))
                paths = pc.if_else(pc.starts_with(paths, prefix), rest, paths)
            outside = pc.starts_with(paths, "/")
            if pc.any(outside).as_py():
                inside = pc.starts_with(paths, f"{str(root).rstrip('/')}/")
                uris = pc.binary_join_element_wise("file://", paths, "")
                paths = pc.if_else(pc.and_(outside, pc.invert(inside)), uris, paths)
            table = _with(table, name, _spelled(paths, root))
    return table


def _with(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def check_files(
    paths: Sequence[str], rows: NDArray[np.int64] | None, root: Place, source: str, *, option: str = "--root"
) -> None:
    """Check that a sample of the files exists: at most 64 local files or 32 objects.

    Some missing files are logged as a warning, because decoding skips them with a reason.

    Args:
        paths: Path of each row.
        rows: Rows whose files are needed; None for all.
        root: Folder or URI that the paths are relative to.
        source: List, for messages.
        option: Option that names another root, for messages.

    Raises:
        ManifestError: All of the sample are missing. The message has the first, the root, and another root
            under which they exist, if one is found.
    """
    chosen = np.arange(len(paths)) if rows is None else rows
    missing = find_missing(paths, chosen, root)
    if not missing.rows:
        return
    first = missing.rows[0]
    counts = (
        f"{len(missing.rows)} of {counted(missing.sampled, 'video')} "
        f"{'is' if len(missing.rows) == 1 else 'are'} missing"
        if missing.sampled == missing.total
        else (
            f"{len(missing.rows)} of {counted(missing.sampled, 'sampled video')} (of {missing.total:,}) are "
            f"missing"
        )
    )
    place = storage.locate(root, paths[first])
    summary = f"{source}: {counts}; the first is {paths[first]!r} (row {first + 1}), looked for at {place}"
    if len(missing.rows) < missing.sampled:
        logger.warning("%s. Missing videos are skipped", summary)
        return
    relative = f"Relative paths are relative to {root}"
    wanted = [paths[row] for row in missing.rows]
    if found := find_root(wanted, root, source):
        raise ManifestError(
            f"{summary}. {relative}; the videos exist with {option} {shlex.quote(str(found))}"
        )
    backslashes = [path.replace("\\", "/") for path in wanted]
    if backslashes != wanted and all(_exist([storage.locate(root, path) for path in backslashes[:8]])):
        raise ManifestError(f"{summary}. The paths have backslashes; write / instead of \\")
    raise ManifestError(
        f"{summary}. {relative}, and no folder near the list has them; name the folder with {option} FOLDER"
    )


def find_missing(paths: Sequence[str], rows: NDArray[np.int64], root: Place) -> Missing:
    """Return the missing files of a sample that is spread evenly over the rows."""
    is_remote = is_uri(root) or (len(rows) and is_uri(paths[int(rows[0])]))
    size = _REMOTE_SAMPLE if is_remote else _SAMPLE
    # One file can have several rows, as parts.
    first_rows = {paths[row]: row for row in reversed([int(rows[k]) for k in _spread(len(rows), size)])}
    sample = sorted(first_rows.values())
    total = len(rows)
    if total <= size:
        sample = sorted({paths[int(row)]: int(row) for row in reversed(rows)}.values())
        total = len(sample)
    exists = _exist([storage.locate(root, paths[row]) for row in sample])
    return Missing([row for row, there in zip(sample, exists, strict=True) if not there], len(sample), total)


def _spread(count: int, size: int) -> list[int]:
    """Return at most `size` numbers below `count`, evenly spread."""
    numbers: list[int] = np.linspace(0, max(0, count - 1), num=size).astype(int).tolist()
    return sorted(set(numbers)) if count else []


def find_root(paths: Sequence[str], root: Place, source: str) -> Place | None:
    """Return a folder near a list with which `fit_paths` finds the files, or None.

    The folder of the list, the root, the current folder and three folders above each are tried, and then the
    folders below them, for at most three seconds.

    Args:
        paths: Sample of paths as in the list.
        root: Folder under which they were not found.
        source: List, or folder.
    """
    wanted = [path.removeprefix("file://") for path in paths]
    if any(is_uri(path) for path in wanted):
        return None
    if isinstance(root, str):
        parents = [root.rsplit("/", up)[0] for up in range(_MAX_PARENTS + 1)]
        places = [parent for parent in parents if is_uri(parent) and not parent.endswith(":/")]
        return next((place for place in dict.fromkeys(places) if _has_all(wanted[:2], place)), None)
    near = [root, Path.cwd()] if is_uri(source) else [root, Path(source).absolute().parent, Path.cwd()]
    above = {path: None for start in near for path in [start, *start.parents[:_MAX_PARENTS]]}
    # The top folder holds the whole machine.
    starts = [path for path in above if path != Path(path.anchor)]
    deadline = time.monotonic() + _MAX_SECONDS
    for folder in itertools.islice(itertools.chain(starts, _folders_below(starts)), _MAX_FOLDERS):
        if time.monotonic() > deadline:
            return None
        if _has_all(wanted, folder):
            return folder
    return None


def _has_all(paths: Sequence[str], root: Place) -> bool:
    """Return whether all paths exist under a folder, as they are or all without a common start."""
    if not any(path.startswith("/") for path in paths) and all(_exist([storage.locate(root, paths[0])])):
        return all(_exist([storage.locate(root, path) for path in paths]))
    return bool(_common_start(paths, root))


def _common_start(paths: Sequence[str], root: Place) -> str:
    """Return the shortest common start without which all paths exist under a folder, or an empty text."""
    parts = paths[0].split("/")
    for count in range(1, len(parts)):
        start = "/".join(parts[:count]) + "/"
        if not all(path.startswith(start) for path in paths):
            return ""
        rest = [path.removeprefix(start) for path in paths]
        # The first file decides in most cases, and costs one look.
        if all(_exist([storage.locate(root, rest[0])])) and all(
            _exist([storage.locate(root, path) for path in rest])
        ):
            return start
    return ""


def _foreign_prefix(paths: pa.ChunkedArray, root: Path) -> str:
    """Return the start of all paths that belongs to another machine, or an empty text."""
    if pc.any(pc.match_substring_regex(paths, r"^[A-Za-z][A-Za-z0-9+.-]*://")).as_py():
        return ""
    sample = [path for k in _spread(len(paths), _SAMPLE) if (path := paths[k].as_py())]
    if not sample or any(os.path.exists(root / path) for path in sample):  # noqa: PTH110
        return ""
    start = _common_start(sample, root)
    return start if start and pc.all(pc.starts_with(paths, start)).as_py() else ""


def _exist(places: Sequence[Place]) -> list[bool]:
    remote = [place for place in places if isinstance(place, str)]
    if remote:
        found = {place: _object_exists(place) for place in remote[:1]}
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            found |= dict(zip(remote[1:], pool.map(_object_exists, remote[1:]), strict=True))
        return [found[place] if isinstance(place, str) else os.path.exists(place) for place in places]  # noqa: PTH110
    if len(places) < _NUM_THREADS:
        return [os.path.exists(place) for place in places]  # noqa: PTH110
    # A network file system takes milliseconds for each.
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return list(pool.map(os.path.exists, places))


def _object_exists(uri: str) -> bool:
    folder, _, name = uri.rpartition("/")
    return storage.identities(folder, [name])[name] is not None


def _folders_below(starts: Sequence[Path]) -> Iterator[Path]:
    """Yield the folders below some folders, those with the fewest levels between first."""
    seen, level = set(starts), list(starts)
    for _ in range(_MAX_DEPTH):
        following = []
        for folder in level:
            for subfolder in _subfolders(folder):
                if subfolder not in seen:
                    seen.add(subfolder)
                    following.append(subfolder)
                    yield subfolder
        level = following


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            # A folder of a million files is not read to its end.
            some = list(itertools.islice(entries, _MAX_ENTRIES))
        return sorted(Path(entry.path) for entry in some if not is_system(entry.name) and entry.is_dir())
    except OSError:
        return []


def _spelled(paths: pa.ChunkedArray, root: Path) -> pa.ChunkedArray:
    """Return the paths with names as the disk spells them, if it has another Unicode form."""
    if pc.all(pc.string_is_ascii(paths)).as_py():
        return paths
    names = _Names()
    texts = paths.to_pylist()
    return pa.chunked_array([pa.array([names.spelled(root, path) for path in texts], pa.string())])


class _Names:
    """Names of the entries of folders by their form NFC. Each folder is listed once."""

    def __init__(self) -> None:
        self._listed: dict[str, dict[str, str]] = {}

    def spelled(self, root: Path, path: str | None) -> str | None:
        """Return a path as the disk spells it; unchanged if there is no such file."""
        if path is None or path.isascii() or _has_one_form(path):
            return path
        start = "" if path.startswith("file:///") else str(root)
        parts = path.removeprefix("file://").split("/")
        if is_uri(path) and start:
            return path
        folder, spelled = start, []
        for part in parts:
            name = part
            if not part.isascii():
                names = self._names(folder or "/")
                name = names.get(part) or names.get(unicodedata.normalize("NFC", part), part)
            spelled.append(name)
            folder = f"{folder}/{name}"
        return ("file://" if not start else "") + "/".join(spelled)

    def _names(self, folder: str) -> dict[str, str]:
        if folder not in self._listed:
            names = _other_names(folder)
            # A name itself comes before one that differs in its form.
            self._listed[folder] = {unicodedata.normalize("NFC", name): name for name in names} | {
                name: name for name in names
            }
        return self._listed[folder]


def _other_names(folder: str) -> list[str]:
    """Return the names in a folder that are not ASCII; none if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.isascii())
    except OSError:
        return []


def _has_one_form(text: str) -> bool:
    return unicodedata.is_normalized("NFC", text) and unicodedata.is_normalized("NFD", text)
