"""Content of the cache, and the studies below a folder: what takes space, how old it is, and who uses it.

Decoded videos, features and small worlds are made again when they are needed, so that `to_prune` names only
these. The drawn videos of version 0.1 cannot be made again, and checkpoints from elsewhere need their source.
"""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import Timeout

from evclip_ray.artifacts import LEDGER, ArtifactError, read_json
from evclip_ray.formatting import counted
from evclip_ray.locking import holding, lock_file
from evclip_ray.results import Study
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.world.data_set import world_folder
from evclip_ray.world.settings import WorldConfig

KINDS = {
    "shards": "decoded videos",
    "features": "features",
    "world": "small world",
    "synthetic": "drawn videos of version 0.1",
    "checkpoints": "checkpoint from elsewhere",
}
"""Folder of the cache -> what its folders hold. Other folders are listed by their name."""

_MADE_AGAIN = {KINDS[name] for name in ("shards", "features", "world")}


@dataclasses.dataclass(frozen=True)
class CacheEntry:
    """One folder of the cache.

    Attributes:
        folder: The folder; its name is the key.
        kind: A value of `KINDS`, or the name of the folder above.
        content: One line about the content.
        num_bytes: Size of all its files.
        written: Time of the last change, in seconds since 1970.
        studies: Studies that use it, of those that were searched.
    """

    folder: Path
    kind: str
    content: str
    num_bytes: int
    written: float
    studies: tuple[Path, ...] = ()

    @property
    def key(self) -> str:
        """Name of the folder."""
        return self.folder.name

    def record(self) -> dict[str, Any]:
        """Return the entry as JSON values."""
        return {
            "key": self.key,
            "kind": self.kind,
            "content": self.content,
            "bytes": self.num_bytes,
            "written": self.written,
            "folder": str(self.folder),
            "studies": [str(study) for study in self.studies],
        }


def find_studies(folders: Iterable[Path]) -> list[Path]:
    """Return the studies in and below folders, those of ladders included, ordered by path.

    Args:
        folders: Folders to search. Those that do not exist are left out.
    """
    found = set()
    for folder in folders:
        for ledger in [folder / LEDGER, *folder.rglob(LEDGER)]:
            if _read(ledger).get("stage") == StudyFolder.STAGE:
                found.add(ledger.parent.resolve())
    return sorted(found)


def list_cache(cache: Path, studies: Sequence[Path] = ()) -> list[CacheEntry]:
    """Return the folders of the cache by kind and key.

    Args:
        cache: Folder of the cache.
        studies: Folders of studies whose use is noted.
    """
    uses = [_Use.of(study, cache) for study in studies]
    entries = []
    order = {name: number for number, name in enumerate(KINDS)}
    for parent in sorted(_folders(cache), key=lambda path: (order.get(path.name, len(order)), path.name)):
        for folder in _folders(parent):
            ledger = _ledger(folder)
            files = [path.stat() for path in folder.rglob("*") if path.is_file()]
            entries.append(
                CacheEntry(
                    folder,
                    KINDS.get(parent.name, parent.name),
                    _content(parent.name, ledger),
                    sum(file.st_size for file in files),
                    max((file.st_mtime for file in files), default=folder.stat().st_mtime),
                    tuple(use.study for use in uses if use.has(folder, parent.name, ledger)),
                )
            )
    return entries


def find_entry(entries: Sequence[CacheEntry], key: str) -> CacheEntry:
    """Return the entry whose key begins with `key`.

    Raises:
        ArtifactError: No entry or several entries match.
    """
    matches = [entry for entry in entries if key and entry.key.startswith(key)]
    if len(matches) != 1:
        names = ", ".join(entry.key for entry in matches) or "none"
        raise ArtifactError(
            f"cache: {key!r} must begin the key of exactly one entry, matches {names};"
            " list the keys with `evclip-ray cache ls`"
        )
    return matches[0]


def remove(entry: CacheEntry) -> bool:
    """Remove an entry. Returns False, without a change, if a process is writing it."""
    try:
        with holding(lock_file(entry.folder), "", wait=False):
            shutil.rmtree(entry.folder)
    except Timeout:
        return False
    return True


def to_prune(
    entries: Sequence[CacheEntry], *, older_than_seconds: float | None = None, unused: bool = False
) -> list[CacheEntry]:
    """Return the entries that can be made again and meet every given condition.

    Args:
        entries: Entries with their studies.
        older_than_seconds: Least age since the last change.
        unused: Leave out entries that a study uses.
    """
    latest = time.time() - (older_than_seconds or 0)
    return [
        entry
        for entry in entries
        if entry.kind in _MADE_AGAIN and entry.written <= latest and not (unused and entry.studies)
    ]


def study_record(root: Path) -> dict[str, Any]:
    """Return the state of a study as JSON values; `written` is in seconds since 1970.

    Args:
        root: Folder of the study.

    Raises:
        ArtifactError: It is not the folder of a study.
    """
    study = Study.load(root)
    states = study.trials["state"].value_counts().to_dict() if len(study.trials) else {}
    best, zero_shot = study.best, study.zero_shot
    files = [path.stat() for path in root.rglob("*") if path.is_file()]
    return {
        "study": str(root),
        "trials": {str(state): int(number) for state, number in sorted(states.items())},
        "val_top1": None if best is None else float(best["val_top1"]),
        "zero_shot_top1": float(zero_shot["top1"].max()) if "top1" in zero_shot else None,
        "written": max((file.st_mtime for file in files), default=0.0),
        "bytes": sum(file.st_size for file in files),
    }


@dataclasses.dataclass(frozen=True)
class _Use:
    """What a study reads from the cache: shards, networks whose features it caches, and small worlds."""

    study: Path
    shards: frozenset[Path]
    features: frozenset[Path]
    networks: frozenset[tuple[str, str]]
    worlds: frozenset[Path]

    @classmethod
    def of(cls, study: Path, cache: Path) -> "_Use":
        records = [_read(path) for path in sorted((study / "videos").glob("*.json"))]
        shards = {Path(folder) for record in records for folder in record.get("folders", {}).values()}
        features = {Path(record["features"]) for record in records if record.get("features")}
        checkpoints = [_read(path) for path in _checkpoints(study)]
        networks = {pair for record in checkpoints for pair in _networks(record)}
        fixed = _read(study / LEDGER).get("inputs", {}).get("fixed", {})
        experiments = [fixed, *(record.get("experiment", {}) for record in checkpoints)]
        worlds = {
            world_folder(WorldConfig.load(settings), cache)
            for experiment in experiments
            if (settings := experiment.get("data", {}).get("world"))
        }
        return cls(
            study,
            frozenset(folder.resolve() for folder in shards),
            frozenset(folder.resolve() for folder in features),
            frozenset(networks),
            frozenset(worlds),
        )

    def has(self, folder: Path, kind: str, ledger: dict[str, Any]) -> bool:
        """Return whether the study uses this folder of the cache."""
        if kind == "shards":
            return folder.resolve() in self.shards
        if kind == "features":
            inputs = ledger.get("inputs", {})
            network = (str(inputs.get("network")), str(inputs.get("origin")))
            return folder.parent.resolve() in self.features and network in self.networks
        return kind == "world" and folder in self.worlds


def _checkpoints(study: Path) -> Iterator[Path]:
    yield from (path for path in [study / "best" / "config.json"] if path.is_file())
    yield from sorted((study / "trials").glob("*/best/config.json"))


def _networks(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and origin of the frozen networks of a checkpoint."""
    experiment, weights = record.get("experiment", {}), record.get("weights", {})
    yield str(experiment.get("backbone", {}).get("name")), str(weights.get("clip"))
    encoder = experiment.get("method", {}).get("video_encoder") or {}
    yield str(encoder.get("name")), str(weights.get("video_encoder"))


def _content(kind: str, ledger: dict[str, Any]) -> str:
    inputs, counts = ledger.get("inputs", {}), ledger.get("counts", {})
    if kind == "shards" and inputs:
        view = inputs.get("view", {})
        side = view.get("short_side") or f"{view.get('height')} x {view.get('width')}"
        frames = f"{counted(view.get('num_frames', 0), 'frame')}, {side} pixels"
        return (
            f"{counted(counts.get('videos', 0), 'video')}, {counted(inputs.get('num_views', 1), 'view')} of "
            f"{frames}"
        )
    if kind == "features" and inputs:
        views = "fixed view" if inputs.get("augment") is None else "augmented views"
        what = "" if inputs.get("kind") == "class_text" else f", {views}"
        network = f"{inputs.get('network')} ({inputs.get('origin')}, {inputs.get('precision')})"
        return f"{inputs.get('kind')} of {network}{what}"
    if kind == "world" and inputs:
        return f"{inputs.get('domain', '')} {counted(counts.get('videos', 0), 'video')}".strip()
    return "" if ledger else "unfinished"


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.is_symlink())


def _ledger(folder: Path) -> dict[str, Any]:
    return _read(folder / LEDGER)


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON file; empty if it is missing or damaged, which is no reason to list nothing."""
    with contextlib.suppress(ArtifactError, FileNotFoundError):
        record = read_json(path)
        return record if isinstance(record, dict) else {}
    return {}
