"""Leaks: a file, group or content in two splits of one manifest.

`row_record` finds the videos that a checkpoint has seen in another manifest.
"""

import collections
import dataclasses
import hashlib
import logging
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from evclip_ray.data import storage
from evclip_ray.data.manifest.manifest import Manifest, ManifestError
from evclip_ray.data.manifest.validation import SPLITS, shared_between_splits
from evclip_ray.data.storage import Place
from evclip_ray.data.video.opening import VideoError, one_video
from evclip_ray.formatting import counted

logger = logging.getLogger(__name__)

_MAX_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Leak:
    """A file, group or content that two or more splits share.

    Attributes:
        kind: "path", "group" or "content" (equal bytes).
        value: The path, the group, or the SHA-256 (64 hex digits) of the bytes.
        splits: In the order train, val, test.
        rows: Every row of the manifest with this value, ascending.
    """

    kind: Literal["path", "group", "content"]
    value: str
    splits: tuple[str, ...]
    rows: tuple[int, ...]


def find_leaks(manifest: Manifest, *, content: bool = True) -> list[Leak]:
    """Return the leaks between splits: files first, then groups, then equal bytes under two names.

    Example: train has a.mp4, and test has a.mp4 and its copy b.mp4. This is one leak of the path a.mp4, and
    one leak of content in both rows of a.mp4 and in b.mp4.

    Args:
        manifest: Rows without a split are ignored.
        content: Also compare bytes. Only files whose size occurs in two splits are read. Absent and empty
            files never leak. Files that cannot be read are counted in a warning.
    """
    table = manifest.table.append_column("row", pa.array(range(len(manifest)), pa.int64()))
    leaks = _leaks(table, "path") + _leaks(table, "group")
    return leaks + _leaks(_with_content(table, manifest.root), "content") if content else leaks


def refuse_leaks(manifest: Manifest, *, allow: bool = False, content: bool = True) -> list[Leak]:
    """Raise an error if a manifest has leaks, unless they are allowed. Return the allowed leaks.

    Args:
        manifest: Manifest to check.
        allow: Log the leaks as a warning instead, to reproduce a published protocol that has them.
        content: See `find_leaks`.

    Raises:
        ManifestError: There are leaks; the message has their number and the paths of the first ones.
    """
    leaks = find_leaks(manifest, content=content)
    if not leaks:
        return leaks
    summary = f"{manifest.source}: {_summary(leaks, manifest)}"
    if not allow:
        raise ManifestError(
            f"{summary}; put each in one split, or allow leaks to reproduce a published protocol that has"
            " them"
        )
    logger.warning("%s; allowed: numbers from these splits are too good", summary)
    return leaks


def _summary(leaks: list[Leak], manifest: Manifest) -> str:
    counts = collections.Counter(leak.kind for leak in leaks)
    listed = ", ".join(f"{count} by {kind}" for kind, count in counts.items())
    rows = len({row for leak in leaks for row in leak.rows})
    named = "; ".join(_described(leak, manifest) for leak in leaks[:_MAX_NAMED])
    more = f"; and {len(leaks) - _MAX_NAMED} more" if len(leaks) > _MAX_NAMED else ""
    return (
        f"{counted(len(leaks), 'leak')} between splits ({listed}) reach {counted(rows, 'row')}: {named}{more}"
    )


def _described(leak: Leak, manifest: Manifest) -> str:
    """Return the kind of a leak with one path of each split: equal content of 'a.mp4' (train) and ..."""
    if leak.kind == "path":
        return f"{leak.value!r} in {' and '.join(leak.splits)}"
    paths: dict[str, str] = {}
    for row in leak.rows:
        # The row belongs to a leak, so it has a split.
        paths.setdefault(manifest.table["split"][row].as_py(), manifest.table["path"][row].as_py())
    listed = " and ".join(f"{paths[split]!r} ({split})" for split in leak.splits)
    return f"equal content of {listed}" if leak.kind == "content" else f"group {leak.value!r} of {listed}"


def _leaks(table: pa.Table, column: str) -> list[Leak]:
    shared = shared_between_splits(table, column)
    if not shared.num_rows:
        return []
    rows: dict[str, list[int]] = collections.defaultdict(list)
    # Rows without a split are in no split, so they are not part of a leak.
    inside = table.filter(pc.and_(pc.is_in(table[column], shared[column]), pc.is_valid(table["split"])))
    for value, row in zip(inside[column].to_pylist(), inside["row"].to_pylist(), strict=True):
        rows[value].append(row)
    return [
        Leak(column, value, tuple(sorted(splits, key=SPLITS.index)), tuple(rows[value]))  # type: ignore[arg-type]
        for value, splits in zip(shared[column].to_pylist(), shared["splits"].to_pylist(), strict=True)
    ]


def _with_content(table: pa.Table, root: Place) -> pa.Table:
    """Return `table` with a column "content": the SHA-256 of files that may be equal, null for the others."""
    paths = table["path"].to_pylist()
    identities = storage.identities(root, paths)
    # Without size 0: all empty files are equal, which proves nothing.
    sizes = {path: identity.size for path, identity in identities.items() if identity and identity.size}
    sized = table.append_column("size", pa.array([sizes.get(path) for path in paths], pa.int64()))
    # A digest reads the whole file, so only files whose size occurs in two splits get one. The tags of an
    # object storage cannot be used: they depend on the parts in which an object was uploaded.
    shared = set(shared_between_splits(sized, "size")["size"].to_pylist())
    digests: dict[str, str] = {}
    unread: list[str] = []
    for path in (path for path, size in sizes.items() if size in shared):
        where = storage.locate(root, path)
        try:
            with one_video(where):
                digests[path] = _sha256(where)
        except VideoError as error:
            unread.append(str(error))
    if unread:
        logger.warning(
            "%s could not be read, so that leaks by content are not found in them; the first is %s",
            counted(len(unread), "file"),
            unread[0],
        )
    # One file in two splits is already a leak by path, so content leaks are limited to copies.
    copies = collections.Counter(digests.values())
    content = {path: value for path, value in digests.items() if copies[value] > 1}
    return table.append_column("content", pa.array([content.get(path) for path in paths], pa.string()))


def _sha256(place: Place) -> str:
    """Return the digest of a file, or of all files of a folder of frames in the order of their names."""
    whole = hashlib.sha256()
    files = [place]
    # Names are not part of the digest, so a copy with another naming pattern is found too.
    if storage.is_folder(place):
        files = [storage.locate(place, name) for name in storage.file_names(place)]
    for file in files:
        with storage.open_binary(file) as stream:
            while data := stream.read(2**20):
                whole.update(data)
    return whole.hexdigest()
