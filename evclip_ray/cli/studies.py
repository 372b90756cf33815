"""The command `studies ls`."""

import json
from pathlib import Path

import click

from evclip_ray.cli.options import example
from evclip_ray.formatting import age, binary_size, printable, short


@click.group("studies")
def studies_group() -> None:
    """List the studies in a folder."""


@studies_group.command("ls", epilog=example("evclip-ray studies ls studies"))
@click.argument("folder", type=click.Path(path_type=Path), default=Path("studies"))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def studies_ls(folder: Path, as_json: bool) -> None:
    """List the studies in and below FOLDER: trials by state, best and zero-shot top-1, age and size."""
    from evclip_ray.artifacts import ArtifactError
    from evclip_ray.config import ConfigError
    from evclip_ray.housekeeping import find_studies, study_record

    if not folder.is_dir():
        raise ConfigError(f"{folder}: is not a folder; give the one that has the studies")
    records, damaged = [], []
    for root in find_studies([folder]):
        try:
            records.append(study_record(root))
        except ArtifactError as problem:
            damaged.append(str(problem))
    if as_json:
        click.echo(json.dumps(records, indent=1))
    else:
        for record in records:
            states = (
                ", ".join(f"{number} {state}" for state, number in record["trials"].items()) or "no trial"
            )
            scores = (
                f"top-1 {short(record['val_top1'], '-')}, zero-shot {short(record['zero_shot_top1'], '-')}"
            )
            facts = f"{age(record['written'])} old, {binary_size(record['bytes'])}"
            click.echo(printable(f"{record['study']}\n    {states}; {scores}; {facts}"))
        click.echo(f"{len(records)} {'study' if len(records) == 1 else 'studies'}")
    for line in damaged:
        click.echo(f"damaged: {printable(line)}", err=True)
