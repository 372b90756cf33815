"""A report written down: one HTML file, and beside it the same as Markdown and as CSV files."""

import dataclasses
import datetime
import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from evclip_ray.artifacts import ArtifactError, write_csv, write_text
from evclip_ray.reports.document import Block, Chart, Note, Pictures, Report, Table, shown
from evclip_ray.reports.render.html import render_html
from evclip_ray.reports.sections.sources import Sources


def write_report(report: Report, out: Path, *, root: Path) -> list[Path]:
    """Write `out` (HTML), the same name with .md, and a folder of CSV files; what was written.

    `root`: the folder that the sources of the report's blocks are relative to.

    Raises:
        ArtifactError: the place cannot be written to.
    """
    check_writable(out)
    report = _traced(report, Sources(root))
    folder, notes = data_folder(out), out.with_suffix(".md")
    written = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    tables = [*_frames(report)]
    for name, frame, brief in tables:
        _write_frame(folder / f"{name}.csv", frame, brief)
    write_text(notes, render_markdown(report, folder=folder.name, written=written))
    write_text(out, render_html(report, folder=folder.name, written=written))
    return [out, notes, *(folder / f"{name}.csv" for name, _, _ in tables)]


def data_folder(out: Path) -> Path:
    """Where the files beside a report go."""
    return out.with_suffix("")


def check_writable(out: Path) -> None:
    """Refuse a place that cannot be written to, before anything is computed.

    Raises:
        ArtifactError: as said.
    """
    if out.is_dir() or not out.suffix:
        raise ArtifactError(f"{out}: must be the name of a file such as report.html; give one by --out")
    probe = out.parent / f".write-{os.getpid()}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ArtifactError(
            f"{out.parent}: cannot be written to ({error.strerror}); write elsewhere by --out FILE"
        ) from None


def render_markdown(report: Report, *, folder: str, written: str) -> str:
    """The report without its charts, whose numbers are in the CSV files."""
    parts = [f"# {report.title}", report.subtitle]
    parts += [f"**{warning}**" for warning in report.warnings]
    parts += ["\n".join(f"- {heading}: {_escaped(value)}" for heading, value in report.facts.items())]
    for section in report.sections:
        brief = section.brief or report.brief
        parts += [
            f"## {_escaped(section.title)}",
            *(_markdown(block, brief, folder) for block in section.blocks),
        ]
    parts += ["## Conditions", _markdown(report.conditions, "", folder), f"Written {written}."]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block, brief: str, folder: str) -> str:
    if isinstance(block, Note):
        return f"**{_escaped(block.text)}**" if block.loud else _escaped(block.text)
    foot = f"<sub>{_escaped(brief)} Source: {_escaped('; '.join(block.sources))}</sub>"
    head = f"### {_escaped(block.title)}"
    says = [_escaped(block.says)] if block.says else []
    if isinstance(block, Pictures):
        lines = [f"- {_escaped(item.title)}: {_escaped('; '.join(item.facts))}" for item in block.items]
        return "\n\n".join([head, *says, "\n".join(lines), foot])
    if isinstance(block, Chart):
        files = ", ".join(f"[{name}.csv]({folder}/{name}.csv)" for name in block.data)
        return "\n\n".join([head, *says, f"Numbers: {files}", foot])
    rest = f"All {len(block.frame)} rows: [{block.name}.csv]({folder}/{block.name}.csv)"
    return "\n\n".join([head, *says, _grid(block.head), rest, foot])


def _grid(frame: pd.DataFrame) -> str:
    lines = [
        "| " + " | ".join(_escaped(str(name)) for name in frame) + " |",
        "|" + " --- |" * len(frame.columns),
    ]
    for row in frame.itertuples(index=False, name=None):
        lines.append("| " + " | ".join(_escaped(shown(cell)) for cell in row) + " |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, no new cell, no new line."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return plain.replace("|", "\\|").replace("\n", " ")


def _frames(report: Report) -> Iterable[tuple[str, pd.DataFrame, str]]:
    """Every frame once: its name, itself, and its conditions in a line."""
    yield report.conditions.name, report.conditions.frame, ""
    seen = set()
    for section in report.sections:
        for block in section.blocks:
            frames = {block.name: block.frame} if isinstance(block, Table) else getattr(block, "data", {})
            for name, frame in frames.items():
                if name not in seen:
                    seen.add(name)
                    yield name, frame, section.brief or report.brief


def _write_frame(path: Path, frame: pd.DataFrame, conditions: str) -> None:
    """Each row says under which conditions its numbers were measured."""
    if not conditions:
        write_csv(path, list(frame.columns), frame.itertuples(index=False, name=None))
        return
    rows = ([*row, conditions] for row in frame.itertuples(index=False, name=None))
    write_csv(path, [*(str(name) for name in frame.columns), "conditions"], rows)


def _traced(report: Report, sources: Sources) -> Report:
    """The same report, its sources with the digests of the files."""

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
