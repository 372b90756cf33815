"""Writing of a report as HTML, Markdown and CSV files."""

import dataclasses
import datetime
import os
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from evclip_ray.artifacts import ArtifactError, write_csv, write_text
from evclip_ray.artifacts import check_writable as check_folder_writable
from evclip_ray.formatting import counted
from evclip_ray.reports.document import Block, Chart, Link, Note, Pictures, Report, Table, shown
from evclip_ray.reports.render.html import render_html
from evclip_ray.reports.sections.sources import Sources


def write_report(report: Report, out: Path, *, root: Path) -> list[Path]:
    """Write the HTML file, a Markdown file of the same name, and a folder of CSV files.

    Args:
        report: Content.
        out: HTML file.
        root: Folder that the sources of the blocks are relative to.

    Returns:
        The written files.

    Raises:
        ArtifactError: The location cannot be written to.
    """
    check_writable(out)
    report = _traced(report, Sources(root))
    report = dataclasses.replace(report, links=[_from_page(link, root, out) for link in report.links])
    folder, notes = data_folder(out), out.with_suffix(".md")
    written = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    tables = [*_tables(report)]
    for name, table, brief in tables:
        _write_table(folder / f"{name}.csv", table, brief)
    write_text(notes, render_markdown(report, folder=folder.name, written=written))
    write_text(out, render_html(report, folder=folder.name, written=written))
    return [out, notes, *(folder / f"{name}.csv" for name, _, _ in tables)]


def data_folder(out: Path) -> Path:
    """Return the folder of the CSV files of a report."""
    return out.with_suffix("")


def check_writable(out: Path) -> None:
    """Check that a report can be written, before anything is computed.

    Raises:
        ArtifactError: `out` is not the name of a file, or its folder cannot be written to.
    """
    if out.is_dir() or not out.suffix:
        raise ArtifactError(f"{out}: must be the name of a file such as report.html; give one by --out")
    check_folder_writable(out.parent, "write elsewhere by --out FILE")


def render_markdown(report: Report, *, folder: str, written: str) -> str:
    """Return the report as Markdown. Charts are replaced by links to their CSV files."""
    parts = [f"# {_escaped(report.title)}", _escaped(report.subtitle)]
    parts += [f"**{_escaped(warning)}**" for warning in report.warnings]
    parts += [f"**{_escaped(report.headline.text)}**", *map(_escaped, report.headline.details)]
    parts += ["\n".join(f"- {heading}: {_escaped(value)}" for heading, value in report.facts.items())]
    parts += _next(report)
    for section in report.sections:
        parts += [f"## {_escaped(section.title)}", *(_markdown(block, folder) for block in section.blocks)]
        if section.sources:
            files = "; ".join(section.sources)
            parts.append(f"<sub>{_escaped(section.brief or report.brief)} Sources: {_escaped(files)}</sub>")
    parts += ["## Conditions", _markdown(report.conditions, folder), f"Written {written}."]
    return "\n\n".join(parts) + "\n"


def _next(report: Report) -> list[str]:
    """Return the commands and the links of a report as Markdown."""
    parts = ["## Next"] if report.commands or report.links else []
    for command in report.commands:
        parts.append(f"{_escaped(command.purpose)}:\n\n    {command.line}")
    if report.links:
        parts.append(", ".join(f"[{_escaped(link.title)}]({link.target})" for link in report.links))
    return parts


def _from_page(link: Link, root: Path, out: Path) -> Link:
    """Return a link relative to the page instead of the folder of the results."""
    # Browsers and viewers resolve `..` in the text of the address, so symbolic links stay as they are.
    path = Path(os.path.relpath(root.absolute() / link.target, out.parent.absolute())).as_posix()
    return dataclasses.replace(link, target=urllib.parse.quote(path + "/" * link.target.endswith("/")))


def _markdown(block: Block, folder: str) -> str:
    if isinstance(block, Note):
        return f"**{_escaped(block.text)}**" if block.loud else _escaped(block.text)
    head = f"### {_escaped(block.title)}"
    caption = [_escaped(block.caption)] if block.caption else []
    if isinstance(block, Pictures):
        facts = {item.title: "; ".join([*item.facts, *item.more_facts]) for item in block.items}
        lines = [f"- {_escaped(title)}: {_escaped(line)}" for title, line in facts.items()]
        return "\n\n".join([head, *caption, "\n".join(lines)])
    if isinstance(block, Chart):
        files = ", ".join(_csv_link(folder, name) for name in block.data)
        return "\n\n".join([head, *caption, f"Numbers: {files}"])
    rest = f"The whole table, {counted(len(block.data), 'row')}: {_csv_link(folder, block.name)}"
    return "\n\n".join([head, *caption, _grid(block.head), rest])


def _csv_link(folder: str, name: str) -> str:
    # A name may come from a folder of the user, and blanks end an address in Markdown.
    return f"[{_escaped(name)}.csv]({urllib.parse.quote(f'{folder}/{name}.csv')})"


def _grid(table: pd.DataFrame) -> str:
    lines = [
        "| " + " | ".join(_escaped(str(name)) for name in table) + " |",
        "|" + " --- |" * len(table.columns),
    ]
    for row in table.itertuples(index=False, name=None):
        lines.append("| " + " | ".join(_escaped(shown(cell)) for cell in row) + " |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Escape text for Markdown, so that it cannot add HTML, a cell or a line."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return plain.replace("|", "\\|").replace("\n", " ")


def _tables(report: Report) -> Iterable[tuple[str, pd.DataFrame, str]]:
    """Yield each table once: its name, its content, and its conditions in a line."""
    yield report.conditions.name, report.conditions.data, ""
    written = set()
    for section in report.sections:
        for block in section.blocks:
            tables = {block.name: block.data} if isinstance(block, Table) else getattr(block, "data", {})
            for name, table in tables.items():
                if name not in written:
                    written.add(name)
                    yield name, table, section.brief or report.brief


def _write_table(path: Path, table: pd.DataFrame, conditions: str) -> None:
    """Write a table as CSV, with the conditions of its numbers in every row."""
    if not conditions:
        write_csv(path, list(table.columns), table.itertuples(index=False, name=None))
        return
    rows = ([*row, conditions] for row in table.itertuples(index=False, name=None))
    write_csv(path, [*(str(name) for name in table.columns), "conditions"], rows)


def _traced(report: Report, sources: Sources) -> Report:
    """Return the report with the digests of the files in its sources."""

    def traced(block: Block) -> Block:
        if isinstance(block, Note):
            return block
        return dataclasses.replace(
            block, sources=tuple(s if "(" in s else sources.line(s) for s in block.sources)
        )

    sections = [
        dataclasses.replace(section, blocks=[traced(block) for block in section.blocks])
        for section in report.sections
    ]
    conditions = dataclasses.replace(
        report.conditions, sources=tuple(sources.line(s) for s in report.conditions.sources)
    )
    return dataclasses.replace(report, sections=sections, conditions=conditions)
