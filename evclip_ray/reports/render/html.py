"""A report as one HTML file that needs nothing else: style, script, Vega, data and pictures inside it."""

import functools
import importlib.resources
import json
from typing import Any

import altair
import jinja2
import vl_convert

from evclip_ray.reports import document
from evclip_ray.reports.charts.theme import vega_config
from evclip_ray.reports.document import Chart, Report, Table
from evclip_ray.version import __version__

_CANVAS_FROM = 1500
"""Rows of a chart from which on it is drawn on a canvas: that many SVG elements make a page scroll badly."""


def render_html(report: Report, *, folder: str, written: str) -> str:
    """The page. `folder`: of the CSV files, as the page links to them; `written`: when."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = document.shown
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["is_number"] = lambda value: isinstance(document.plain(value), int | float)
    template = environment.from_string(_page_file("report.html.j2"))
    return template.render(
        report=report, folder=folder, written=written, version=__version__,
        style=_page_file("report.css"), script=_page_file("report.js"),
        vega=_vega() if report.blocks(Chart) else "",
        data=script_json(_data(report)), charts=script_json(_charts(report)),
        themes=script_json({name: vega_config(name) for name in ("light", "dark")}),
        table_columns=_head_columns,
    )  # fmt: skip


def script_json(value: Any) -> str:
    """JSON that no text inside can end the script element of, whatever classes are called."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _head_columns(table: Table) -> list[tuple[str, bool]]:
    """Headings of what a table sets out, and whether the column holds numbers."""
    frame = table.head
    return [(str(name), bool(frame[name].map(_is_number).any())) for name in frame]


def _is_number(value: object) -> bool:
    found = document.plain(value)
    return isinstance(found, int | float) and not isinstance(found, bool)


def _data(report: Report) -> dict[str, Any]:
    """Every frame once, by its name: those of charts, and of tables that are not set out whole."""
    frames = {name: frame for chart in report.blocks(Chart) for name, frame in chart.data.items()}
    frames |= {f"table_{t.name}": t.frame for t in report.blocks(Table) if t.is_folded}
    return {
        name: {"columns": [str(c) for c in f.columns], "rows": document.cells(f)}
        for name, f in frames.items()
    }


def _charts(report: Report) -> dict[str, Any]:
    return {
        chart.name: {
            "spec": chart.spec(), "data": {name: chart.reads.get(name, name) for name in chart.data},
            "height": chart.height,
            "renderer": "canvas" if max(map(len, chart.data.values())) > _CANVAS_FROM else "svg",
        }
        for chart in report.blocks(Chart)
    }  # fmt: skip


@functools.cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed in one script."""
    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    # Its stub asks for a script of one's own to be bundled; None bundles the libraries for the page.
    bundle = str(vl_convert.javascript_bundle(None, vl_version=version))  # type: ignore[arg-type]
    return bundle.replace("</script", "<\\/script")


def _page_file(name: str) -> str:
    return (importlib.resources.files("evclip_ray.reports.render") / "page" / name).read_text(
        encoding="utf-8"
    )
