"""True masks that the list of an evaluation's videos names now, after the videos were decoded."""

import logging
from pathlib import Path

from evclip_ray.artifacts import LEDGER, digest, read_json
from evclip_ray.data import storage
from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.training.datamodule import resolve_manifest
from evclip_ray.training.experiment import DataConfig

log = logging.getLogger(__name__)


def cache_of(videos_file: Path) -> Path | None:
    """Return the cache that holds the decoded validation videos; None if they are gone."""
    folders = read_json(videos_file)["folders"] if videos_file.is_file() else {}
    shards = folders.get("val")
    # A data set that is made on demand is in the same cache. Without the shards it is not made again.
    return Path(shards).parents[1] if shards and (Path(shards) / LEDGER).is_file() else None


def list_of(data: DataConfig, cache: Path) -> Manifest | None:
    """Return a list of videos as it is now; None if it cannot be read."""
    try:
        return resolve_manifest(data, cache=cache)
    except (ValueError, OSError) as problem:
        log.info("true masks are not shown, because the list of videos cannot be read: %s", problem)
        return None


def true_masks_key(manifest: Manifest | None) -> dict[str, str]:
    """Return a digest of the files of true masks, by name; empty if the list names none."""
    names = set() if manifest is None else {name for name in manifest.column("mask") if name is not None}
    if manifest is None or not names:
        return {}
    return {"true_masks": digest(sorted(storage.identities(manifest.root, names).items()))}
