"""Rendering as one self-contained HTML file with style, script, Vega, data and pictures."""

import functools
import importlib.resources
import json
from typing import Any

import altair
import jinja2
import vl_convert

from evclip_ray import formatting
from evclip_ray.reports import document
from evclip_ray.reports.charts.theme import vega_config
from evclip_ray.reports.document import Chart, Report, Table
from evclip_ray.version import __version__

_SCRIPTS = ("charts.js", "layout.js", "tables.js")
"""Files of the page's script, in the order in which they use each other's names."""

_CANVAS_FROM = 1500
"""Number of rows above which a chart is drawn on a canvas. More SVG elements make scrolling slow."""


def render_html(report: Report, *, folder: str, written: str) -> str:
    """Return the HTML page.

    Args:
        report: Content.
        folder: Folder of the CSV files, relative to the page.
        written: Date and time for the footer.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = document.shown
    environment.filters["counted"] = formatting.counted
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["is_number"] = lambda value: isinstance(document.plain(value), int | float)
    template = environment.from_string(page_file("report.html.j2"))
    return template.render(
        report=report,
        folder=folder,
        written=written,
        version=__version__,
        style=page_file("report.css"),
        script="\n".join(map(page_file, _SCRIPTS)),
        vega=_vega() if report.blocks(Chart) else "",
        data=script_json(_data(report)),
        charts=script_json(_charts(report)),
        themes=script_json({name: vega_config(name) for name in ("light", "dark")}),
        table_columns=_head_columns,
    )


def script_json(value: Any) -> str:
    """Return JSON for a script element. No text in it, such as a class name, can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _head_columns(table: Table) -> list[tuple[str, bool]]:
    """Return the headings of a table, and whether each column contains numbers."""
    rows = table.rows
    return [(str(name), bool(rows[name].map(_is_number).any())) for name in rows]


def _is_number(value: object) -> bool:
    converted = document.plain(value)
    return isinstance(converted, int | float) and not isinstance(converted, bool)


def _data(report: Report) -> dict[str, Any]:
    """Return each table once: those of charts, those with a fold, and rows that are displayed on demand."""
    tables = {name: table for chart in report.blocks(Chart) for name, table in chart.data.items()}
    for block in report.blocks(Table):
        if block.is_folded:
            tables[f"table_{block.name}"] = block.data
        # Cells as they are displayed, so that rows of the page and these are of one kind.
        rest = block.rows.iloc[block.num_shown :].map(document.shown)
        if len(rest):
            tables[f"rest_{block.name}"] = rest
    return {
        name: {"columns": [str(column) for column in table.columns], "rows": document.cells(table)}
        for name, table in tables.items()
    }


def _charts(report: Report) -> dict[str, Any]:
    return {
        chart.name: {
            "spec": chart.spec(),
            "data": {name: chart.data_names.get(name, name) for name in chart.data},
            "height": chart.height,
            "square": chart.square,
            "renderer": "canvas" if max(map(len, chart.data.values())) > _CANVAS_FROM else "svg",
        }
        for chart in report.blocks(Chart)
    }


@functools.cache
def _vega() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script."""
    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    # With None instead of a script, vl-convert bundles the libraries alone; its type stub omits this case.
    bundle = str(vl_convert.javascript_bundle(None, vl_version=version))  # type: ignore[arg-type]
    return bundle.replace("</script", "<\\/script")


def page_file(name: str) -> str:
    """Return the text of a file of the page: its template, style or a part of its script."""
    return (importlib.resources.files("evclip_ray.reports.render") / "page" / name).read_text(
        encoding="utf-8"
    )
