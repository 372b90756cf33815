"""Leaks: one file, group or content in two splits, or trained on and read, so that a test sees training."""

import collections
import dataclasses
import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evclip_ray.data import storage
from evclip_ray.data.manifest.manifest import Manifest, ManifestError
from evclip_ray.data.manifest.validation import SPLITS, shared_between_splits
from evclip_ray.data.storage import Place

logger = logging.getLogger(__name__)

Indices = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Leak:
    """One thing that two splits or more share.

    `value`: the path, the group, or the SHA-256 (64 hex digits) of the bytes. `splits`: in the order
    train, val, test. `rows`: every row of the manifest that has it, ascending.
    """

    kind: Literal["path", "group", "content"]
    value: str
    splits: tuple[str, ...]
    rows: tuple[int, ...]


def find_leaks(manifest: Manifest, *, content: bool = True) -> list[Leak]:
    """Everything that two splits share: files first, then groups, then equal bytes under two names.

    `content`: read the files whose size another split has as well. Absent and empty files are nothing
    that could leak, and rows without a split belong to none.

    Worked example: train has a.mp4, test has a.mp4 and a copy of it called b.mp4. That is a leak of the
    path a.mp4, and a leak of content in both rows of a.mp4 and in b.mp4.
    """
    table = manifest.table.append_column("row", pa.array(range(len(manifest)), pa.int64()))
    leaks = _leaks(table, "path") + _leaks(table, "group")
    return leaks + _leaks(_with_content(table, manifest.root), "content") if content else leaks


def refuse_leaks(manifest: Manifest, *, allow: bool = False, content: bool = True) -> list[Leak]:
    """The leaks of a manifest, which is refused if it has any, unless a leaky protocol is asked for.

    `allow`: reproduce a leaky published protocol: the leaks are logged as a warning and returned, for
    the caller to mark what they reach. `content`: see `find_leaks`.

    Raises:
        ManifestError: leaks, with their number.
    """
    leaks = find_leaks(manifest, content=content)
    if not leaks:
        return leaks
    told = f"{manifest.source}: {_told(leaks, 'splits')}"
    if not allow:
        raise ManifestError(
            f"{told}; put each in one split, or allow leaks to reproduce a published protocol that has them"
        )
    logger.warning("%s; allowed: numbers from these splits are too good", told)
    return leaks


def find_seen(seen: Iterable[tuple[Manifest, Indices]], read: Manifest, rows: Indices) -> list[Leak]:
    """The files, and equal contents under two names, that are `rows` of `read` and were `seen` in training.

    `seen`: the rows that trained or selected, of manifests of their own. `Leak.rows` are of `read`; groups
    are not compared, as two manifests name them independently.
    """
    parts = [_placed(manifest, chosen, "train") for manifest, chosen in seen]
    table = pa.concat_tables([*parts, _placed(read, rows, "test", numbered=True)])
    # Every path is of its own, so there is no root.
    leaks = _leaks(table, "path") + _leaks(_with_content(table, Path()), "content")
    return [
        dataclasses.replace(leak, rows=tuple(sorted(row for row in leak.rows if row >= 0))) for leak in leaks
    ]


def refuse_seen(
    seen: Iterable[tuple[Manifest, Indices]], read: Manifest, rows: Indices, *, allow: bool = False
) -> frozenset[int]:
    """The rows of `read` that `find_seen` finds. `allow`: as in `refuse_leaks`.

    Raises:
        ManifestError: there are some, with their number.
    """
    leaks = find_seen(seen, read, rows)
    if not leaks:
        return frozenset()
    told = f"{read.source}: {_told(leaks, 'what was trained on and what is read')}"
    if not allow:
        raise ManifestError(
            f"{told}; read other videos, or allow leaks to reproduce a published protocol that has them"
        )
    logger.warning("%s; allowed: numbers from these videos are too good", told)
    return frozenset(row for leak in leaks for row in leak.rows)


def _placed(manifest: Manifest, rows: Indices, split: str, *, numbered: bool = False) -> pa.Table:
    """Columns path (a URI, of this machine too), split and row (-1 unless `numbered`) of some rows."""
    paths = manifest.table["path"].take(pa.array(rows, pa.int64())).to_pylist()
    places = [manifest.locate(path) for path in paths]
    uris = [place if isinstance(place, str) else f"file://{place}" for place in places]
    numbers = rows if numbered else np.full(len(rows), -1)
    return pa.table(
        [
            pa.array(uris, pa.string()),
            pa.array([split] * len(uris), pa.string()),
            pa.array(numbers, pa.int64()),
        ],
        names=["path", "split", "row"],
    )


def _told(leaks: list[Leak], between: str) -> str:
    counts = collections.Counter(leak.kind for leak in leaks)
    listed = ", ".join(f"{count} by {kind}" for kind, count in counts.items())
    first = leaks[0]
    rows = len({row for leak in leaks for row in leak.rows})
    return (
        f"{len(leaks)} leaks between {between} ({listed}) reach {rows} rows; the first is the {first.kind}"
        f" {first.value!r}, in {' and '.join(first.splits)}"
    )


def _leaks(table: pa.Table, column: str) -> list[Leak]:
    shared = shared_between_splits(table, column)
    if not shared.num_rows:
        return []
    rows: dict[str, list[int]] = collections.defaultdict(list)
    inside = table.filter(pc.and_(pc.is_in(table[column], shared[column]), pc.is_valid(table["split"])))
    for value, row in zip(inside[column].to_pylist(), inside["row"].to_pylist(), strict=True):
        rows[value].append(row)
    return [
        Leak(column, value, tuple(sorted(splits, key=SPLITS.index)), tuple(rows[value]))  # type: ignore[arg-type]
        for value, splits in zip(shared[column].to_pylist(), shared["splits"].to_pylist(), strict=True)
    ]


def _with_content(table: pa.Table, root: Place) -> pa.Table:
    """`table` with a column "content": the SHA-256 of files that may be equal, null for the others."""
    paths = table["path"].to_pylist()
    found = storage.identities(root, paths)
    sizes = {path: identity.size for path, identity in found.items() if identity and identity.size}
    sized = table.append_column("size", pa.array([sizes.get(path) for path in paths], pa.int64()))
    # A digest reads the whole file, so only sizes that two splits have are worth one. A storage's own
    # tags will not do: equal objects that were sent in other pieces have others.
    shared = set(shared_between_splits(sized, "size")["size"].to_pylist())
    digests = {path: _sha256(storage.locate(root, path)) for path, size in sizes.items() if size in shared}
    # One file in two splits is a leak by path already: content tells of two files.
    copies = collections.Counter(digests.values())
    told = {path: value for path, value in digests.items() if copies[value] > 1}
    return table.append_column("content", pa.array([told.get(path) for path in paths], pa.string()))


def _sha256(place: Place) -> str:
    """Of a file's bytes; of a folder of frames, of all its files' in the order of their names."""
    whole = hashlib.sha256()
    files = [place]
    if storage.is_folder(place):
        files = [storage.locate(place, name) for name in storage.file_names(place)]
    for file in files:
        with storage.open_binary(file) as stream:
            while data := stream.read(2**20):
                whole.update(data)
    return whole.hexdigest()
