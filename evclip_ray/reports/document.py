"""What a report holds before anything is drawn: sections of tables, charts and pictures.

The HTML, the Markdown and the CSV files are three ways to write the same document down. Every block names the
files that its numbers come from.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair
import pandas as pd

from evclip_ray import formatting

_EXACT = 2**53

Drawing = altair.Chart | altair.LayerChart | altair.FacetChart


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows for people. `frame`: whole, as the CSV file has it.

    `view`: what is set out, row by row of `frame`, under headings to read; by default all of it. `shown`: as
    many rows are set out; the rest are behind a fold.
    """

    name: str
    title: str
    frame: pd.DataFrame
    says: str = ""
    sources: Sequence[str] = ()
    view: pd.DataFrame | None = None
    shown: int = 20

    @property
    def head(self) -> pd.DataFrame:
        """The rows that are set out, under their headings."""
        if self.view is not None:
            return self.view.head(self.shown)
        return self.frame.head(self.shown).rename(columns=lambda name: str(name).replace("_", " "))

    @property
    def is_folded(self) -> bool:
        """Whether there is more than what is set out."""
        return len(self.frame) > self.shown or self.view is not None


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart and the frames that it draws, under the names that its specification reads them by.

    `draws`: a Vega-Lite specification without data; `says`: how to read it, in a sentence; the first frame is
    the table behind the chart. `width`, `height`: in pixels; below that width the chart scrolls by itself.
    `reads`: the name that the specification has for a frame, where it is another.
    """

    name: str
    title: str
    draws: Drawing
    data: Mapping[str, pd.DataFrame]
    says: str = ""
    sources: Sequence[str] = ()
    small: bool = False
    height: int = 300
    width: int = 0
    reads: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def renamed(self, prefix: str) -> "Chart":
        """The same chart under a name of its own, its frames too."""
        data = {prefix + name: frame for name, frame in self.data.items()}
        reads = {prefix + name: name for name in self.data}
        return dataclasses.replace(self, name=prefix + self.name, data=data, reads=reads)

    def spec(self) -> dict[str, Any]:
        """The specification, for a page that holds the data once."""
        return dict(self.draws.to_dict(validate=False))

    def altair(self) -> Drawing:
        """The chart with its data, for a notebook."""
        data = {self.reads.get(name, name): records(frame) for name, frame in self.data.items()}
        chart = self.draws.copy()
        chart["datasets"], chart["title"] = data, self.title
        return chart


@dataclasses.dataclass(frozen=True)
class Picture:
    """Images of one thing: `images`, by caption, are data URIs; `facts`: lines of text."""

    title: str
    facts: Sequence[str]
    images: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures under each other; `plots`: each fills its place, rather than scrolling by itself."""

    name: str
    title: str
    items: Sequence[Picture]
    says: str = ""
    sources: Sequence[str] = ()
    plots: bool = False


@dataclasses.dataclass(frozen=True)
class Note:
    """Why something is not there, or what must not be overlooked (`loud`)."""

    text: str
    loud: bool = False


Block = Table | Chart | Pictures | Note


@dataclasses.dataclass(frozen=True)
class Section:
    """Blocks under a heading; `name` is its anchor; `brief`: the conditions of its numbers, if its own."""

    name: str
    title: str
    blocks: Sequence[Block]
    brief: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """The whole. `facts`: what to see first, by heading.

    `conditions`: under which the numbers were measured, `brief` in a line.
    """

    title: str
    subtitle: str
    facts: Mapping[str, str]
    conditions: Table
    brief: str
    sections: Sequence[Section]
    warnings: Sequence[str] = ()

    def blocks(self, kind: type[Any]) -> list[Any]:
        """Every block of a kind, in order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, kind)]


def plain(value: Any) -> Any:
    """A cell as JSON knows it: fractions to 5 significant digits, None for what is not a number."""
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        if value.is_integer() and abs(value) < _EXACT:
            return int(value)
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str) else json.dumps(value, default=str)


def cells(frame: pd.DataFrame) -> list[list[Any]]:
    """The rows of a frame, each cell `plain`."""
    columns = [[plain(value) for value in frame[name]] for name in frame]
    return [list(row) for row in zip(*columns, strict=True)]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as mappings, each cell `plain`."""
    return [dict(zip(frame.columns, row, strict=True)) for row in cells(frame)]


def shown(value: Any) -> str:
    """A cell for people: three significant digits, a dash for nothing."""
    value = plain(value)
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def with_interval(frame: pd.DataFrame, value: str, low: str, high: str) -> pd.Series:
    """Format a column of scores with their intervals: "0.182 (0.05 to 0.48)", a dash if missing."""
    rows = zip(frame[value], frame[low], frame[high], strict=True)
    return pd.Series([formatting.with_interval(*row) for row in rows], index=frame.index)
