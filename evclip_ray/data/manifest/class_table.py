"""Table of classes by splits, short enough to be read before a command starts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evclip_ray.data.manifest.manifest import SPLITS, Manifest
from evclip_ray.formatting import counted

MAX_CLASSES = 18


def class_table(
    manifest: Manifest,
    rows: Mapping[str, NDArray[np.int64]] | None = None,
    *,
    max_classes: int | None = MAX_CLASSES,
) -> list[dict[str, Any]]:
    """Return one mapping per class: `class`, and its number of videos in each split.

    A longer table has the classes with the fewest videos, and a last entry with the range of the others.

    Args:
        manifest: Videos with or without splits; those without are in the column "none".
        rows: Rows of some splits, which take the place of those of the manifest, such as the chosen shots.
        max_classes: Number of classes that are listed; None for all.
    """
    labels = manifest.table["label"]
    chosen = {name: manifest.in_split(name) for name in SPLITS} | dict(rows or {})
    unmarked = np.flatnonzero(pc.is_null(manifest.table["split"]).to_numpy())
    if rows is None and len(unmarked):
        chosen["none"] = unmarked
    counts = {split: _counted(labels, indices) for split, indices in chosen.items() if len(indices)}
    first = next(iter(counts), None)
    table: list[dict[str, Any]] = [
        {"class": label, **{split: count.get(label, 0) for split, count in counts.items()}}
        for label in manifest.classes
    ]
    if first is None or max_classes is None or len(table) <= max_classes:
        return table
    table.sort(key=lambda row: row[first])
    shown, others = table[:max_classes], table[max_classes:]
    ranges = {split: _range([row[split] for row in others]) for split in counts}
    return [*shown, {"class": f"{counted(len(others), 'other class')}", **ranges}]


def class_lines(table: Sequence[Mapping[str, Any]], width: int = 40) -> list[str]:
    """Return the lines of a table: its header, then the classes, with the numbers aligned.

    Args:
        table: Result of `class_table`.
        width: Longest class name in characters; longer ones are cut.
    """
    cells = [[*table[0]], *([str(value) for value in row.values()] for row in table)]
    cells = [[name if len(name) <= width else f"{name[: width - 3]}...", *rest] for name, *rest in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            [name.ljust(widths[0]), *(cell.rjust(size) for cell, size in zip(rest, widths[1:], strict=True))]
        )
        for name, *rest in cells
    ]


def _counted(labels: pa.ChunkedArray, rows: NDArray[np.int64]) -> dict[str, int]:
    tally = pc.value_counts(labels.take(pa.array(rows, pa.int64())))
    return dict(zip(tally.field("values").to_pylist(), tally.field("counts").to_pylist(), strict=True))


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
