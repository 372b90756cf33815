"""The Pareto front: what nothing else beats in everything at once."""

from collections.abc import Mapping, Sequence
from typing import Any

from evclip_ray.scaling.bootstrap import is_number

FRONTS = {
    "pareto_latency": ("latency_seconds",),
    "pareto_total_parameters": ("total_parameters",),
    "pareto_trainable_parameters": ("trainable_parameters",),
    "pareto": ("latency_seconds", "total_parameters", "trainable_parameters"),
}
"""Column -> the costs that top-1 is weighed against."""


def mark_fronts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with a column for each of FRONTS: True on the front, None where a number is missing."""
    fronts = {name: on_front(rows, costs) for name, costs in FRONTS.items()}
    return [{**row, **{name: marks[i] for name, marks in fronts.items()}} for i, row in enumerate(rows)]


def on_front(rows: Sequence[Mapping[str, Any]], costs: Sequence[str]) -> list[bool | None]:
    """For each row whether no other has as high a `val_top1` at no higher costs, and is better in one.

    Rows that are equal in everything are on the front together. None: a number is missing.
    """
    keys = [
        (-float(row["val_top1"]), *(float(row[cost]) for cost in costs))
        if all(is_number(row[name]) for name in ("val_top1", *costs))
        else None
        for row in rows
    ]
    known = [key for key in keys if key is not None]
    return [None if key is None else not any(_beats(other, key) for other in known) for key in keys]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
