"""Content of a report before rendering: sections of tables, charts and pictures.

The HTML, the Markdown and the CSV files are three renderings of the same document. Every block names the
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
from evclip_ray.reports.charts.theme import vega_config

_EXACT = 2**53

Drawing = altair.Chart | altair.LayerChart | altair.FacetChart


@dataclasses.dataclass(frozen=True)
class Table:
    """Table of a report.

    Attributes:
        name: Name of the CSV file, without its suffix.
        title: Heading.
        data: All rows and columns, as in the CSV file.
        caption: Text above the table.
        sources: Files that the numbers come from.
        view: Columns to display, row by row of `data`, under readable headings; by default all of them.
        num_shown: Number of rows that are displayed. The others are in a fold.
    """

    name: str
    title: str
    data: pd.DataFrame
    caption: str = ""
    sources: Sequence[str] = ()
    view: pd.DataFrame | None = None
    num_shown: int = 20

    @property
    def head(self) -> pd.DataFrame:
        """Rows that are displayed at first."""
        return self.rows.head(self.num_shown)

    @property
    def rows(self) -> pd.DataFrame:
        """All rows under their headings. They can be displayed by sorting or filtering the table."""
        return self.data.rename(columns=_heading) if self.view is None else self.view

    @property
    def is_folded(self) -> bool:
        """Whether the fold contains more than the displayed rows and columns."""
        return len(self.data) > self.num_shown or self.view is not None


@dataclasses.dataclass(frozen=True)
class Chart:
    """Chart of a report, and the tables that it draws.

    Attributes:
        name: Name of the chart.
        title: Heading.
        drawing: Vega-Lite specification without data.
        data: Tables by name. The first one is offered as the numbers of the chart.
        caption: How to read the chart, in a sentence.
        sources: Files that the numbers come from.
        per_row: Number of such charts next to each other on a wide screen: 1, 2 or 3.
        height: Height in pixels.
        width: Width in pixels below which the chart scrolls.
        square: Largest side in pixels of a square plot, and the width of the labels on its left. By default
            the plot fills the width and the height.
        data_names: Names of the tables in the specification, where they differ from those of `data`.
    """

    name: str
    title: str
    drawing: Drawing
    data: Mapping[str, pd.DataFrame]
    caption: str = ""
    sources: Sequence[str] = ()
    per_row: int = 1
    height: int = 300
    width: int = 0
    square: tuple[int, int] | None = None
    data_names: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def renamed(self, prefix: str) -> "Chart":
        """Return the chart with a prefix before its name and the names of its tables."""
        data = {prefix + name: table for name, table in self.data.items()}
        data_names = {prefix + name: name for name in self.data}
        return dataclasses.replace(self, name=prefix + self.name, data=data, data_names=data_names)

    def spec(self) -> dict[str, Any]:
        """Return the specification without data, for a page that contains the data once."""
        return dict(self.drawing.to_dict(validate=False))

    def altair(self) -> Drawing:
        """Return the chart with its data, for a notebook."""
        data = {self.data_names.get(name, name): records(table) for name, table in self.data.items()}
        chart = self.drawing.copy()
        chart["datasets"], chart["title"] = data, self.title
        # The page adds the theme. A notebook gets the light one, on paper of its own.
        chart["config"] = {**vega_config("light"), "background": "#FFFFFF"}
        return chart


@dataclasses.dataclass(frozen=True)
class Picture:
    """Images of one object as data URIs, by caption, with lines of text (`facts`).

    `more_facts` and `more_images` are in a fold.
    """

    title: str
    facts: Sequence[str]
    images: Mapping[str, str]
    more_facts: Sequence[str] = ()
    more_images: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures in a grid, the first `num_shown` of them outside the fold.

    By default the images of a picture share one row. With `plots` each of them has the width of a column.
    """

    name: str
    title: str
    items: Sequence[Picture]
    caption: str = ""
    sources: Sequence[str] = ()
    plots: bool = False
    num_shown: int = 3


@dataclasses.dataclass(frozen=True)
class Note:
    """Remark, such as the reason why something is missing. A `loud` one is highlighted."""

    text: str
    loud: bool = False


Block = Table | Chart | Pictures | Note


@dataclasses.dataclass(frozen=True)
class Section:
    """Blocks under a heading.

    Attributes:
        name: Anchor.
        title: Heading.
        blocks: Content.
        brief: Conditions, if they are not those of the report.
        label: Entry in the navigation, by default the title.
    """

    name: str
    title: str
    blocks: Sequence[Block]
    brief: str = ""
    label: str = ""

    @property
    def sources(self) -> dict[str, list[str]]:
        """Titles of the blocks by file that their numbers come from, in the order of the blocks."""
        titles: dict[str, list[str]] = {}
        for block in self.blocks:
            if not isinstance(block, Note):
                for source in block.sources:
                    titles.setdefault(source, []).append(block.title)
        return titles


@dataclasses.dataclass(frozen=True)
class Headline:
    """Answer to the question of a study or a ladder: one sentence, and sentences that qualify it."""

    text: str
    details: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Strip:
    """A few pictures for the first screen. `section` is the anchor of the section with all of them."""

    items: Sequence[Picture]
    caption: str
    section: str


@dataclasses.dataclass(frozen=True)
class Command:
    """Command that a reader may run next. `purpose` is its label."""

    purpose: str
    line: str


@dataclasses.dataclass(frozen=True)
class Link:
    """Link to a file or folder of the results, relative to their folder."""

    title: str
    target: str


@dataclasses.dataclass(frozen=True)
class Report:
    """Whole report.

    Attributes:
        title: Heading.
        subtitle: Line below the heading.
        headline: Answer to the question of the results.
        facts: Most important results, by heading.
        conditions: Conditions of the numbers.
        brief: The conditions in one line.
        sections: Sections in order.
        warnings: Warnings at the top.
        strip: Pictures for the first screen, if there are any.
        commands: Commands to run next.
        links: Files and folders of the results.
    """

    title: str
    subtitle: str
    headline: Headline
    facts: Mapping[str, str]
    conditions: Table
    brief: str
    sections: Sequence[Section]
    warnings: Sequence[str] = ()
    strip: Strip | None = None
    commands: Sequence[Command] = ()
    links: Sequence[Link] = ()

    def blocks(self, kind: type[Any]) -> list[Any]:
        """Return all blocks of a kind, in order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, kind)]


def _heading(column: Any) -> str:
    """Return the heading of a column. A step of the ladder is named `rung` in files."""
    words = str(column).replace("_", " ")
    return {"rung": "step", "rungs": "steps"}.get(words, words)


def plain(value: Any) -> Any:
    """Convert a cell to a JSON value: fractions with 5 significant digits, None for missing values."""
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        if value.is_integer() and abs(value) < _EXACT:
            return int(value)
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str) else json.dumps(value, default=str)


def cells(table: pd.DataFrame) -> list[list[Any]]:
    """Return the rows of a table, with each cell converted by `plain`."""
    columns = [[plain(value) for value in table[name]] for name in table]
    return [list(row) for row in zip(*columns, strict=True)]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as mappings, with each cell converted by `plain`."""
    return [dict(zip(table.columns, row, strict=True)) for row in cells(table)]


def shown(value: Any) -> str:
    """Format a cell for display: three significant digits, a dash for a missing value."""
    value = plain(value)
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float) and abs(value) >= 1000:
        return f"{value:,.0f}"
    return formatting.short(value)


def with_interval(table: pd.DataFrame, value: str, low: str, high: str) -> pd.Series:
    """Format a column of scores with their intervals: "0.182 (0.05 to 0.48)", a dash if missing."""
    rows = zip(table[value], table[low], table[high], strict=True)
    return pd.Series([formatting.with_interval(*row) for row in rows], index=table.index)
