"""Pareto front of accuracy and costs."""

from collections.abc import Mapping, Sequence
from typing import Any

from evclip_ray.scaling.bootstrap import is_number

FRONTS = {
    "pareto_latency": ("latency_seconds",),
    "pareto_total_parameters": ("total_parameters",),
    "pareto_trainable_parameters": ("trainable_parameters",),
    "pareto": ("latency_seconds", "total_parameters", "trainable_parameters"),
}
"""Costs of each front, by column of ladder.csv."""


def mark_fronts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with a column per front: True on the front, None if a number is missing."""
    fronts = {name: on_front(rows, costs) for name, costs in FRONTS.items()}
    return [{**row, **{name: marks[i] for name, marks in fronts.items()}} for i, row in enumerate(rows)]


def on_front(rows: Sequence[Mapping[str, Any]], costs: Sequence[str]) -> list[bool | None]:
    """Return for each row whether it is on the front, or None if a number is missing.

    A row is on the front if no other row is at least as good in `val_top1` and all costs and better in one.
    Equal rows are on the front together.
    """
    keys = [
        # Negated, so that smaller is better in every position of the key.
        (-float(row["val_top1"]), *(float(row[cost]) for cost in costs))
        if all(is_number(row[name]) for name in ("val_top1", *costs))
        else None
        for row in rows
    ]
    known = [key for key in keys if key is not None]
    return [None if key is None else not any(_beats(other, key) for other in known) for key in keys]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    # Not equal and nowhere worse means better in at least one position.
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
