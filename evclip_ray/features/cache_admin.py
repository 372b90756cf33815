"""A look at what is kept of frozen networks: list it, check it, remove it."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

from evclip_ray.artifacts import LEDGER, ArtifactError, read_ledger
from evclip_ray.features.cached_networks import STAGE
from evclip_ray.features.format import SUFFIX, is_sound


@dataclasses.dataclass(frozen=True)
class Entry:
    """The features of one spec: the name of its `folder` is its key; `views` is "bank" or "fixed"."""

    folder: Path
    kind: str
    network: str
    origin: str
    precision: str
    views: str
    files: int
    num_bytes: int


def entries(store: Path) -> Iterator[Entry]:
    """Everything that is kept in `store`, in order of its keys."""
    for ledger in sorted(store.glob(f"*/{LEDGER}")):
        inputs = read_ledger(ledger.parent, STAGE)["inputs"]
        sizes = [path.stat().st_size for path in ledger.parent.glob(f"*{SUFFIX}")]
        views = "fixed" if inputs["augment"] is None else "bank"
        named = {name: inputs[name] for name in ("kind", "network", "origin", "precision")}
        yield Entry(ledger.parent, **named, views=views, files=len(sizes), num_bytes=sum(sizes))


def damaged(entry: Entry) -> list[Path]:
    """The files that do not hold what was written; the next study that reads them makes them again."""
    return [path for path in sorted(entry.folder.glob(f"*{SUFFIX}")) if not is_sound(path, path.stem)]


def remove(store: Path, key: str) -> Entry:
    """Remove the features whose key begins with `key`.

    Raises:
        ArtifactError: there are none, or several.
    """
    found = [entry for entry in entries(store) if key and entry.folder.name.startswith(key)]
    if len(found) != 1:
        names = ", ".join(entry.folder.name for entry in found) or "none"
        raise ArtifactError(
            f"{store}: {key!r} must begin the key of one set of features, found {names}; see cache ls"
        )
    shutil.rmtree(found[0].folder)
    return found[0]
