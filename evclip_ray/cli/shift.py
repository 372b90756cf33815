"""Compare sets of videos."""

from pathlib import Path

import click

from evclip_ray.cli.display import DecodeView, bars, console, rows_table
from evclip_ray.cli.options import (
    address_option,
    cache_folder,
    cache_option,
    example,
    one_each,
    settings,
    sources,
    warn_random,
)
from evclip_ray.config import parse_assignments


@click.command(
    epilog=example(
        "evclip-ray shift day/manifest.csv night/manifest.csv --split train --split test --out shift"
    )
)
@click.argument("manifests", nargs=-1, required=True, metavar="A B [C ...]")
@click.option(
    "--split", "splits", multiple=True, default=("train",), show_default=True,
    help="Split of every set, or given once for each set, in their order.",
)  # fmt: skip
@click.option(
    "--root",
    "roots",
    multiple=True,
    help="Folder that paths are relative to; for every set, or one for each.",
)
@click.option(
    "--videos", default=1000, show_default=True, help="Read at most so many of each set, drawn by seed."
)
@click.option(
    "--predictions", type=click.Path(path_type=Path), default=None,
    help="predictions.csv of an evaluation on one of the sets: which factors go with being right.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("shift"), show_default=True)
@settings
@cache_option
@address_option
@click.pass_obj
def shift(
    verbose: bool, manifests: tuple[str, ...], splits: tuple[str, ...], roots: tuple[str, ...], videos: int,
    predictions: Path | None, out: Path, assignments: tuple[str, ...], cache: Path | None,
    address: str | None,
) -> None:  # fmt: skip
    """Say how far apart two or more sets of videos are, and in what.

    A, B, ...: manifests. Looks and motion, distances in zero-shot CLIP's features, nearness of classes.
    The measures are our own, not those of a paper.
    """
    from evclip_ray.cluster import connect
    from evclip_ray.domain_shift.association import read_predictions
    from evclip_ray.domain_shift.compare import TITLES, claim, compare, explain, write
    from evclip_ray.evaluation.domain_shift import comparison_inputs, measure_sets, plan_sets
    from evclip_ray.reports.charts.domain_shift import draw_shift
    from evclip_ray.training.datamodule import is_prepared, prepare

    cache, given = cache_folder(cache), parse_assignments(assignments)
    claim(out)
    predicted = read_predictions(predictions) if predictions else None
    places = zip(manifests, one_each("--root", roots or (None,), len(manifests)), strict=True)
    overrides = [{**sources(manifest, root), **given} for manifest, root in places]
    plans = plan_sets(
        manifests, one_each("--split", splits, len(manifests)), overrides, most=videos, cache=cache
    )
    decoded = []
    for chosen in plans:
        if is_prepared(chosen.plan, cache):
            decoded.append(prepare(chosen.plan, cache=cache))
            continue
        with connect(address, verbose=verbose), bars() as progress:
            decoded.append(prepare(chosen.plan, cache=cache, progress=DecodeView(progress)))
    with bars() as progress:
        domains, weights = measure_sets(plans, decoded, progress=DecodeView(progress))
    tables = compare(domains, seed=plans[0].experiment.seed)
    if predicted:
        tables["association"] = explain(domains, predicted, seed=plans[0].experiment.seed)
    write(out, domains, tables, inputs=comparison_inputs(plans, decoded, predictions), weights=weights)
    draw_shift(out, domains, tables)
    warn_random(weights)
    for chosen in plans:
        console.print(
            f"{chosen.name}: {chosen.num_videos} of {chosen.total} {chosen.split} videos", markup=False
        )
    for name, title in TITLES.items():
        if name in tables:
            console.print(rows_table(title, tables[name]))
    console.print(f"tables, every video's factors, and figures: {out}", soft_wrap=True, markup=False)
