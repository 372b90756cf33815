"""Maintenance of the cache of frozen networks' features: list and verify. `housekeeping` removes them."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from evclip_ray.artifacts import LEDGER, read_ledger
from evclip_ray.features.cached_networks import STAGE
from evclip_ray.features.format import SUFFIX, is_sound


@dataclasses.dataclass(frozen=True)
class CacheEntry:
    """Cached features of one spec.

    `folder`: its name is the spec's key; `views`: "bank" (augmented training views) or "fixed".
    """

    folder: Path
    kind: str
    network: str
    origin: str
    precision: str
    views: str
    files: int
    num_bytes: int


def list_entries(store: Path) -> Iterator[CacheEntry]:
    """Yield all entries of the cache folder `store`, ordered by key."""
    for ledger in sorted(store.glob(f"*/{LEDGER}")):
        inputs = read_ledger(ledger.parent, STAGE)["inputs"]
        sizes = [path.stat().st_size for path in ledger.parent.glob(f"*{SUFFIX}")]
        views = "fixed" if inputs["augment"] is None else "bank"
        fields = {name: inputs[name] for name in ("kind", "network", "origin", "precision")}
        yield CacheEntry(ledger.parent, **fields, views=views, files=len(sizes), num_bytes=sum(sizes))


def damaged_files(entry: CacheEntry) -> list[Path]:
    """Return the files whose content differs from what was written; the next study computes them again."""
    # The name of a file is its key.
    return [path for path in sorted(entry.folder.glob(f"*{SUFFIX}")) if not is_sound(path, path.stem)]
