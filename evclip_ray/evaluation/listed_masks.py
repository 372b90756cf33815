"""True masks that the list of an evaluation's videos names now, after the videos were decoded."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa

from evclip_ray.artifacts import LEDGER, digest, read_json
from evclip_ray.data import storage
from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.formatting import counted
from evclip_ray.training.experiment import DataConfig
from evclip_ray.training.video_lists import resolve_manifest

log = logging.getLogger(__name__)


def cache_of(videos_file: Path) -> Path | None:
    """Return the cache that holds the decoded validation videos; None if they are gone."""
    folders = read_json(videos_file)["folders"] if videos_file.is_file() else {}
    shards = folders.get("val")
    # A data set that is made on demand is in the same cache. Without the shards it is not made again.
    return Path(shards).parents[1] if shards and (Path(shards) / LEDGER).is_file() else None


def list_of(data: DataConfig, cache: Path) -> Manifest | None:
    """Return a list of videos as it is now; None if it cannot be read, or if its data set is not made yet."""
    if data.world is not None:
        from evclip_ray.world.data_set import world_folder

        folder = world_folder(data.world, cache)
        # Another version draws other videos under the same settings, of which nothing was decoded.
        if not (folder / LEDGER).is_file():
            log.warning("true masks are not shown: %s is gone, or another version drew the videos", folder)
            return None
    try:
        return resolve_manifest(data, cache=cache)
    except (ValueError, OSError) as problem:
        log.info("true masks are not shown, because the list of videos cannot be read: %s", problem)
        return None


def with_unchanged_masks(manifest: Manifest, rows_file: Path) -> Manifest:
    """Return a list without the masks of validation videos that have changed since the training.

    The decoded frames are those of the old videos. A mask of a new video under the same path would be taken
    for theirs.

    Args:
        manifest: The list as it is now.
        rows_file: Record of the videos of the training; without the file, nothing is compared.
    """
    if not rows_file.is_file() or manifest.table["mask"].null_count == len(manifest):
        return manifest
    record = RowRecord.read(rows_file)
    names = ("path", "use", "content")
    facts = zip(*(record.table[name].to_pylist() for name in names), strict=True)
    before = {path: content for path, use, content in facts if use == "val"}
    paths = manifest.column("path")
    rows = [row for row, path in enumerate(paths) if path in before]
    if not rows:
        return manifest
    # Files with the recorded size and time are not read again.
    now = RowRecord.of(manifest.select(rows), {}, known=record).table["content"].to_pylist()
    changed = [row for row, content in zip(rows, now, strict=True) if content != before[paths[row]]]
    if not changed:
        return manifest
    log.warning(
        "%s: %s changed since the training, such as %r; their masks are not compared",
        manifest.source, counted(len(changed), "validation video", "has", "have"), paths[changed[0]],
    )  # fmt: skip
    kept = np.array(manifest.column("mask"), dtype=object)
    kept[changed] = None
    position = manifest.table.column_names.index("mask")
    table = manifest.table.set_column(position, "mask", pa.array(kept, pa.string()))
    return dataclasses.replace(manifest, table=table)


def true_masks_key(manifest: Manifest | None) -> dict[str, str]:
    """Return a digest of the files of true masks, by name; empty if the list names none."""
    names = set() if manifest is None else {name for name in manifest.column("mask") if name is not None}
    if manifest is None or not names:
        return {}
    return {"true_masks": digest(sorted(storage.identities(manifest.root, names).items()))}
