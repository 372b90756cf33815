"""Record of the videos behind a number: path, part, label, split and content of every row.

A study, a run and a checkpoint keep this record, so that later commands compare videos by content and not by
the name of a list: the list can change while its name stays.

    rows.parquet    one row per row of the manifest. `split` is the assigned split; `use` is "train" or "val"
                    for rows that train or select, null for others (test videos, and training videos that no
                    shot drew). `size` is in bytes. `content` is "sampled:" and a digest, or "version:" and
                    the tag of an object storage

The sampled digest reads at most 192 KiB of a file: the first, the middle and the last 64 KiB. Objects of an
object storage are not read; their version tag (ETag) is in the listing. Where a tag must be compared with a
local file, the object is sampled too.
"""

import collections
import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from evclip_ray.artifacts import ArtifactError, replacing
from evclip_ray.data import storage
from evclip_ray.data.manifest.manifest import Manifest, ManifestError
from evclip_ray.data.manifest.validation import composed
from evclip_ray.data.storage import Identity, Place
from evclip_ray.formatting import counted

logger = logging.getLogger(__name__)

FILE = "rows.parquet"
USES = ("train", "val")
"""Uses of a row that an evaluation must not see again: training, and selection by validation."""

Indices = NDArray[np.int64]
Progress = Callable[[int, int], None]

_PART = ("start_seconds", "end_seconds", "start_frame", "end_frame")
_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("label", pa.string()),
        ("group", pa.string()),
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
        ("start_frame", pa.int64()),
        ("end_frame", pa.int64()),
        ("split", pa.string()),
        ("use", pa.string()),
        ("size", pa.int64()),
        ("version", pa.string()),
        ("content", pa.string()),
    ]
)
_SAMPLE_BYTES = 64 * 2**10
# Reads of small pieces mostly wait, and the digest releases Python's global lock.
_NUM_THREADS = 16
_FILES_PER_TASK = 200


class _Video(NamedTuple):
    """A used row: identity of its content and part, then its use, label and path."""

    identity: tuple[Any, ...]
    use: str
    label: str
    path: str


@dataclasses.dataclass(frozen=True)
class Difference:
    """Used videos in which two records differ, as texts for a message.

    Attributes:
        added: Videos that only the new record uses.
        removed: Videos that only the old record uses.
        moved: Videos with another use, such as "a.mp4 (train to val)".
        relabelled: Videos with another label.
        changed: Paths whose content changed.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    relabelled: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in dataclasses.fields(self))

    def __str__(self) -> str:
        kinds = {
            "added": self.added,
            "removed": self.removed,
            "moved between splits": self.moved,
            "with another label": self.relabelled,
            "with other content": self.changed,
        }
        return "; ".join(
            f"{len(videos)} {kind}: {', '.join(videos[:3])}" + (", ..." if len(videos) > 3 else "")
            for kind, videos in kinds.items()
            if videos
        )


@dataclasses.dataclass(frozen=True)
class RowRecord:
    """Rows of a manifest with their use and content.

    Attributes:
        table: The columns described in the module.
        root: Folder or URI that the paths are relative to.
        source: Manifest that the rows are from, for messages.
        legacy: Whether the rows are those of a study or run of version 0.1, which all validation videos
            select, also with few shots.
    """

    table: pa.Table
    root: Place
    source: str
    legacy: bool = False

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        rows: Mapping[str, Indices],
        *,
        known: "RowRecord | None" = None,
        legacy: bool = False,
        progress: Progress | None = None,
    ) -> Self:
        """Record the rows of a manifest.

        Args:
            manifest: Rows with their splits.
            rows: Used rows by use. Uses other than `USES` are not recorded as such.
            known: Earlier record. The content of a file whose size and modification time (or version tag) did
                not change is taken from it and is not read again.
            legacy: See the class.
            progress: Called with the files read and the files to read.
        """
        uses = np.full(len(manifest), None, dtype=object)
        for use in USES:
            uses[rows.get(use, [])] = use
        paths = manifest.column("path")
        identities = storage.identities(manifest.root, paths)
        contents = _contents(manifest, identities, known, progress)
        columns = {
            **{name: manifest.table[name] for name in ("path", "label", "group", *_PART, "split")},
            "use": pa.array(uses, pa.string()),
            "size": pa.array([_size(identities[path]) for path in paths], pa.int64()),
            "version": pa.array([_version(identities[path]) for path in paths], pa.string()),
            "content": pa.array([contents.get(path) for path in paths], pa.string()),
        }
        return cls(pa.table(columns, schema=_SCHEMA), manifest.root, manifest.source, legacy)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record.

        Raises:
            ArtifactError: The file is damaged.
        """
        try:
            table = parquet.ParquetFile(path).read()
            facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
            # `select` fails if a column is missing.
            table = table.select(_SCHEMA.names).replace_schema_metadata(None)
            # A manifest has this form since version 0.2, and labels and groups are compared with it.
            for name in ("label", "group"):
                position = table.column_names.index(name)
                table = table.set_column(position, name, composed(table[name]))
            return cls(table, storage.place(facts["root"]), facts["source"], "legacy" in facts)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise ArtifactError(
                f"{path}: cannot be read as a record of videos ({error}); the file is damaged"
            ) from None

    def write(self, path: Path) -> None:
        """Write the record as a Parquet file, atomically."""
        facts = {"root": str(self.root), "source": self.source, **({"legacy": "true"} if self.legacy else {})}
        table = self.table.replace_schema_metadata(facts)
        with replacing(path) as temporary:
            parquet.write_table(table, temporary, compression="zstd")

    @property
    def has_validation(self) -> bool:
        """Whether any video selects by validation."""
        return "val" in pc.unique(self.table["use"]).to_pylist()

    def assignment(self) -> dict[str, str]:
        """Return the split of each group; the path stands for the group of a row without one."""
        names = zip(*(self.table[name].to_pylist() for name in ("group", "path", "split")), strict=True)
        return {group or path: split for group, path, split in names if split is not None}

    def with_paths_of(self, manifest: Manifest) -> Self:
        """Return this record with the paths of a list, for files of equal content.

        It stays as it is if the list has the paths of all used videos; no file is read then. Files that have
        a copy in one of the two keep their paths, because the names of copies are a matter of chance.

        Args:
            manifest: List of the same videos in another place.
        """
        used = self.table.filter(pc.is_valid(self.table["use"]))["path"]
        if set(used.to_pylist()) <= set(manifest.column("path")):
            return self
        before, after = self._paths_by_content(), RowRecord.of(manifest, {})._paths_by_content()
        names = {
            next(iter(paths)): next(iter(after[content]))
            for content, paths in before.items()
            if len(paths) == len(after.get(content, ())) == 1
        }
        paths = pa.array([names.get(path, path) for path in self.table["path"].to_pylist()], pa.string())
        position = self.table.column_names.index("path")
        return dataclasses.replace(self, table=self.table.set_column(position, "path", paths))

    def _paths_by_content(self) -> dict[tuple[Any, ...], set[str]]:
        paths: dict[tuple[Any, ...], set[str]] = collections.defaultdict(set)
        columns = (self.table[name].to_pylist() for name in ("path", "size", "content"))
        for path, size, content in zip(*columns, strict=True):
            if content is not None:
                paths[size, content].add(path)
        return paths

    def keys(self) -> dict[str, str]:
        """Return a digest of the used videos by use: their contents, parts and labels, in any order."""
        texts: dict[str, list[str]] = {use: [] for use in USES}
        for video in self._used():
            texts[video.use].append(repr((video.identity, video.label)))
        return {
            use: hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]
            for use, lines in texts.items()
            if lines
        }

    def difference(self, new: "RowRecord") -> Difference:
        """Return the used videos in which a newer record differs from this one.

        Videos with equal content and part are the same, also under another path. A file that cannot be read
        is compared by its path.
        """
        before, after = _by_identity(self._used()), _by_identity(new._used())
        removed = {video.path for identity, video in before.items() if identity not in after}
        added = {video.path for identity, video in after.items() if identity not in before}
        both = [(video, after[identity]) for identity, video in before.items() if identity in after]
        return Difference(
            tuple(sorted(added - removed)),
            tuple(sorted(removed - added)),
            tuple(f"{b.path} ({a.use} to {b.use})" for a, b in both if a.use != b.use),
            tuple(f"{b.path} ({a.label} to {b.label})" for a, b in both if a.label != b.label),
            tuple(sorted(added & removed)),
        )

    def overlap(self, manifest: Manifest, rows: Indices) -> dict[int, tuple[str, str]]:
        """Return the rows of another manifest whose file was used here, by content.

        Args:
            manifest: Manifest of the other rows.
            rows: Rows to look for.

        Returns:
            Row -> (use, path in this record).
        """
        # Only files of equal size can have equal content, so few files are read. A file of several parts
        # counts for all of them, because neighbouring parts show the same scene.
        used = [
            (size, content, use, path)
            for size, content, use, path in zip(
                *(self.table[name].to_pylist() for name in ("size", "content", "use", "path")), strict=True
            )
            if use is not None
        ]
        locations = {str(storage.locate(self.root, path)): (use, path) for _, _, use, path in used}
        by_size: dict[int, dict[str, tuple[str, str | None]]] = collections.defaultdict(dict)
        for size, content, use, path in used:
            # All empty files are equal, which proves nothing.
            if size:
                by_size[size][path] = (use, content)
        paths = [manifest.table["path"][row].as_py() for row in rows.tolist()]
        identities = storage.identities(manifest.root, set(paths))
        reader = _Contents()
        found = {}
        for row, path in zip(rows.tolist(), paths, strict=True):
            location = manifest.locate(path)
            match = locations.get(str(location))
            if match is None and (identity := identities[path]) is not None:
                match = self._same_content(by_size.get(identity.size, {}), location, identity, reader)
            if match is not None:
                found[row] = match
        return found

    def _same_content(
        self,
        candidates: Mapping[str, tuple[str, str | None]],
        location: Place,
        identity: Identity,
        reader: "_Contents",
    ) -> tuple[str, str] | None:
        """Return use and path of the candidate with the content of a file, or None."""
        for path, (use, content) in candidates.items():
            if content is None:
                continue
            mine = reader.of(location, identity)
            kind = content.partition(":")[0]
            if kind != mine.partition(":")[0]:
                # A version tag does not describe a file elsewhere: the bytes of both are compared.
                mine = reader.sampled(location)
                content = reader.sampled(storage.locate(self.root, path)) if kind == "version" else content
            if content == mine:
                return use, path
        return None

    def _used(self) -> Iterator[_Video]:
        names = ("path", "label", "use", "size", "content", *_PART)
        for path, label, use, size, content, *part in zip(
            *(self.table[name].to_pylist() for name in names), strict=True
        ):
            if use is not None:
                what = (size, content) if content is not None else (path,)
                yield _Video((*what, *part), use, label, path)


class _Contents:
    """Contents of files, each read once."""

    def __init__(self) -> None:
        self._sampled: dict[Place, str] = {}

    def of(self, location: Place, identity: Identity) -> str:
        """Return the content of a file as in a record."""
        if isinstance(location, str) and identity.version:
            return f"version:{identity.version}"
        return self.sampled(location)

    def sampled(self, location: Place) -> str:
        """Return the sampled digest of a file. A file that is gone has none, which equals no other."""
        if location not in self._sampled:
            try:
                self._sampled[location] = sampled_digest(location)
            except FileNotFoundError:
                # The training videos may be elsewhere now; a name that equals nothing is not an overlap.
                logger.warning("%s: is gone, so that its content cannot be compared", location)
                self._sampled[location] = f"gone:{location}"
        return self._sampled[location]


def sampled_digest(location: Place) -> str:
    """Return "sampled:" and a digest (16 hex digits) of a file's size and first, middle and last 64 KiB.

    For a folder of frames, the first, the middle and the last frame are sampled. Files of up to 192 KiB are
    read whole. Two videos that differ only in bytes between the samples would count as equal; encoded videos
    of equal size do not have this in practice.
    """
    # blake2b is faster than SHA-256 on CPUs without special instructions.
    whole = hashlib.blake2b(digest_size=8)
    files = [location]
    if storage.is_folder(location):
        names = storage.file_names(location)
        files = [storage.locate(location, names[k]) for k in sorted({0, len(names) // 2, len(names) - 1})]
        whole.update(str(len(names)).encode())
    for file in files:
        with storage.open_binary(file) as stream:
            size = stream.seek(0, 2)
            whole.update(str(size).encode())
            starts = [0, size // 2 - _SAMPLE_BYTES // 2, size - _SAMPLE_BYTES]
            # Samples that overlap would read a small file twice.
            if size <= 3 * _SAMPLE_BYTES:
                starts = list(range(0, size, _SAMPLE_BYTES))
            for start in starts:
                stream.seek(start)
                whole.update(stream.read(_SAMPLE_BYTES))
    return f"sampled:{whole.hexdigest()}"


def refuse_used(
    record: RowRecord, manifest: Manifest, rows: Indices, *, allow: bool = False
) -> frozenset[int]:
    """Raise an error if evaluation videos were trained or selected on. Return the allowed rows.

    Args:
        record: Videos of the training.
        manifest: Manifest of the evaluation.
        rows: Rows of `manifest` that are scored.
        allow: Log a warning instead, to reproduce a published protocol that has leaks.

    Raises:
        ManifestError: There is an overlap; the message has its size.
    """
    used = record.overlap(manifest, rows)
    if not used:
        return frozenset()
    counts = collections.Counter(use for use, _ in used.values())
    roles = {"train": "trained", "val": "selected"}
    listed = ", ".join(f"{counts[use]} {roles[use]}" for use in USES if counts[use])
    row, (_, path) = next(iter(used.items()))
    name = manifest.table["path"][row].as_py()
    twin = "" if name == path else f" (in training as {path!r})"
    summary = (
        f"{manifest.source}: {len(used)} of the {counted(len(rows), 'video')} to score were used for this "
        f"checkpoint ({listed} it); the first is {name!r}{twin}"
    )
    if not allow:
        raise ManifestError(
            f"{summary}. Evaluate on other videos or with the splits of the training, or set"
            " data.allow_leaks=true to reproduce a published protocol that has such videos"
        )
    logger.warning("%s; allowed: numbers from these videos are too good", summary)
    return frozenset(used)


def _by_identity(videos: Iterator[_Video]) -> dict[tuple[Any, ...], _Video]:
    """Return the videos by identity; copies of one video get numbers, in the order of their paths."""
    copies: collections.Counter[tuple[Any, ...]] = collections.Counter()
    numbered = {}
    for video in sorted(videos, key=lambda video: (video.path, video.use)):
        copies[video.identity] += 1
        numbered[(*video.identity, copies[video.identity])] = video
    return numbered


def _contents(
    manifest: Manifest,
    identities: Mapping[str, Identity | None],
    known: RowRecord | None,
    progress: Progress | None,
) -> dict[str, str]:
    contents: dict[str, str] = {}
    earlier = _known(known)
    unread = []
    for path, identity in identities.items():
        if identity is None:
            continue
        location = manifest.locate(path)
        size, version, content = earlier.get(path, (None, None, None))
        if content is not None and size == identity.size and version == str(identity.version):
            contents[path] = content
        elif isinstance(location, str) and identity.version:
            # The same path and size on another kind of storage counts as the same video: its local copy
            # has a digest and no tag.
            is_copy = content is not None and size == identity.size and content.startswith("sampled:")
            contents[path] = content if is_copy and content else f"version:{identity.version}"
        elif content is not None and size == identity.size and content.startswith("version:"):
            contents[path] = content
        else:
            unread.append(path)
    parts = [unread[start : start + _FILES_PER_TASK] for start in range(0, len(unread), _FILES_PER_TASK)]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        done = 0
        for part, digests in zip(parts, pool.map(lambda part: _sample(manifest, part), parts), strict=True):
            contents |= {path: text for path, text in zip(part, digests, strict=True) if text is not None}
            done += len(part)
            if progress is not None:
                progress(done, len(unread))
    return contents


def _known(known: RowRecord | None) -> dict[str, tuple[int | None, str | None, str | None]]:
    if known is None:
        return {}
    columns = (known.table[name].to_pylist() for name in ("path", "size", "version", "content"))
    return {path: (size, version, content) for path, size, version, content in zip(*columns, strict=True)}


def _sample(manifest: Manifest, paths: Sequence[str]) -> list[str | None]:
    return [_sample_or_none(manifest.locate(path)) for path in paths]


def _sample_or_none(location: Place) -> str | None:
    try:
        return sampled_digest(location)
    # A file that cannot be read is compared by its path. Decoding reports it as skipped, with the reason.
    except (OSError, IndexError) as error:
        if isinstance(error, storage.StorageError):
            raise
        return None


def _size(identity: Identity | None) -> int | None:
    return None if identity is None else identity.size


def _version(identity: Identity | None) -> str | None:
    return None if identity is None else str(identity.version)
