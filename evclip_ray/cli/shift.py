"""The command `shift`."""

from pathlib import Path

import click

from evclip_ray.api import cache_folder, ray_if_needed, source_overrides
from evclip_ray.cli.display import console, print_random_weights, rows_table
from evclip_ray.cli.early_checks import SPLITS, check_data
from evclip_ray.cli.options import cache_option, example, one_per_set, settings
from evclip_ray.cli.progress import bars, load_torch
from evclip_ray.cli.ray_messages import ray_messages
from evclip_ray.cli.remote import address_option
from evclip_ray.config import parse_assignments
from evclip_ray.optional import require
from evclip_ray.progress import stage


@click.command(
    epilog=example(
        "evclip-ray shift day/manifest.csv night/manifest.csv --split train --split test --out shift"
    )
)
@click.argument("manifests", nargs=-1, required=True, metavar="A B [C ...]")
@click.option(
    "--split",
    "splits",
    type=click.Choice(SPLITS),
    multiple=True,
    default=("train",),
    show_default=True,
    help="Split of all sets. Or give it once for each set, in their order. A list without splits is read "
    "whole.",
)
@click.option(
    "--root",
    "roots",
    multiple=True,
    help="Folder or URI that the paths in all manifests are relative to. Or give it once for each set.",
)
@click.option(
    "--videos",
    default=1000,
    show_default=True,
    help="Maximum number of videos of each set. Larger sets are sampled.",
)
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    default=None,
    help="predictions.csv of an evaluation on one of the sets, to relate its errors to the factors.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("shift"),
    show_default=True,
    help="Folder of the tables and figures.",
)
@settings
@cache_option
@address_option
@click.pass_obj
def shift(
    verbose: bool,
    manifests: tuple[str, ...],
    splits: tuple[str, ...],
    roots: tuple[str, ...],
    videos: int,
    predictions: Path | None,
    out: Path,
    assignments: tuple[str, ...],
    cache: Path | None,
    address: str | None,
) -> None:
    """Measure how much two or more sets of videos differ, and in which factors.

    A, B, ... are manifests. Compared are appearance and motion, distances between zero-shot CLIP features,
    and the similarity of classes. The measures are defined by this project, not by a paper.
    """
    for manifest in manifests:
        check_data(manifest)
    load_torch()
    from evclip_ray.domain_shift.association import read_predictions
    from evclip_ray.domain_shift.compare import TITLES, claim, compare, explain, write
    from evclip_ray.evaluation.domain_shift import comparison_inputs, measure_sets, plan_sets
    from evclip_ray.training.datamodule import prepare

    # Before the measurements, which take minutes.
    require("matplotlib", extra="report", purpose="the figures of a domain shift")
    from evclip_ray.reports.charts.domain_shift import draw_shift

    cache, pinned = cache_folder(cache), parse_assignments(assignments)
    claim(out)
    # Read before the hours of decoding, so that a damaged file is reported at once.
    predicted = read_predictions(predictions) if predictions else None
    sources = zip(manifests, one_per_set("--root", roots or (None,), len(manifests)), strict=True)
    overrides = [{**source_overrides(manifest, root), **pinned} for manifest, root in sources]
    chosen_splits = one_per_set("--split", splits, len(manifests))
    with ray_messages(verbose), bars() as steps:
        with stage("reading the lists"):
            plans = plan_sets(manifests, chosen_splits, overrides, max_videos=videos, cache=cache)
        plans_of_videos = [chosen.plan for chosen in plans]
        with ray_if_needed(plans_of_videos, cache=cache, address=address, verbose=verbose, progress=steps):
            decoded = [prepare(plan, cache=cache, progress=steps) for plan in plans_of_videos]
        domains, weights = measure_sets(plans, decoded, progress=steps)
        with stage("comparing the sets"):
            tables = compare(domains, seed=plans[0].experiment.seed)
            if predicted:
                tables["association"] = explain(domains, predicted, seed=plans[0].experiment.seed)
        with stage("writing tables and figures"):
            inputs = comparison_inputs(plans, decoded, predictions)
            write(out, domains, tables, inputs=inputs, weights=weights)
            draw_shift(out, domains, tables)
    print_random_weights(weights)
    for chosen in plans:
        console.print(chosen.extent, soft_wrap=True, markup=False)
    for name, title in TITLES.items():
        if name in tables:
            console.print(rows_table(title, tables[name]))
    console.print(f"tables, factors of each video, and figures: {out}", soft_wrap=True, markup=False)
