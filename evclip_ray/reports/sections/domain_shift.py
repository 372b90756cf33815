"""Section of a domain shift: the tables and figures that `evclip-ray shift` wrote."""

import base64
from pathlib import Path

import pandas as pd

from evclip_ray.artifacts import LEDGER, read_ledger
from evclip_ray.domain_shift.compare import STAGE, TITLES
from evclip_ray.formatting import counted
from evclip_ray.reports.document import Block, Picture, Pictures, Section, Table
from evclip_ray.reports.sections.sources import Sources


def shift_section(folder: Path) -> Section:
    """Return the section of a folder that `evclip-ray shift` wrote.

    Raises:
        ArtifactError: The folder belongs to another stage.
    """
    ledger, sources = read_ledger(folder, STAGE), Sources(folder)
    name = folder.resolve().name
    blocks: list[Block] = []
    for table, title in TITLES.items():
        path = folder / f"{table}.csv"
        if path.is_file():
            data = pd.read_csv(path, keep_default_na=False, na_values=[""])
            blocks.append(
                Table(f"{name}_{table}", title, data, sources=(f"{name}/{sources.line(path.name)}",))
            )
    sets = ", ".join(f"{counted(count, 'video')} of {chosen}" for chosen, count in ledger["counts"].items())
    weights = ", ".join(f"{part} {origin}" for part, origin in ledger["weights"].items())
    brief = f"{sets} · weights {weights} · git {ledger['provenance']['git']}"
    figures = sorted(folder.glob("*.png"))
    if figures:
        images = {path.stem.replace("_", " "): _data_uri(path) for path in figures}
        source = f"{name}/{sources.line(LEDGER)}"
        blocks.append(
            Pictures(f"{name}_figures", "Figures", [Picture(name, (), images)], sources=(source,), plots=True)
        )
    return Section(f"shift_{name}", f"Domain shift: {name}", blocks, brief)


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
