"""The command `report`."""

from pathlib import Path

import click

from evclip_ray.api import cache_folder
from evclip_ray.cli.display import console
from evclip_ray.cli.early_checks import check_path
from evclip_ray.cli.options import cache_option, example
from evclip_ray.cli.progress import bars, load_torch
from evclip_ray.formatting import counted, megabytes
from evclip_ray.progress import stage


@click.command(epilog=example("evclip-ray report studies/mine --evaluation studies/mine/best-test"))
@click.argument("results", type=click.Path(path_type=Path), metavar="STUDY_OR_LADDER")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="HTML file. Markdown and a folder of CSV files are written next to it. "
    "Default: STUDY_OR_LADDER/report.html.",
)
@click.option(
    "--evaluation",
    "evaluations",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder written by evaluate, to include its scores. Repeatable. "
    "Default: those next to the checkpoint.",
)
@click.option(
    "--shift",
    "shifts",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder written by shift, to include its comparison. Repeatable.",
)
@click.option(
    "--videos",
    default=8,
    show_default=True,
    type=click.IntRange(0),
    help="Number of videos whose masks are shown.",
)
@click.option(
    "--seed", default=0, show_default=True, help="Seed of the random sample among the shown videos."
)
@cache_option
def report(
    results: Path,
    out: Path | None,
    evaluations: tuple[Path, ...],
    shifts: tuple[Path, ...],
    videos: int,
    seed: int,
    cache: Path | None,
) -> None:
    """Write the results of a study or a ladder as one HTML file that needs no network.

    The first line states the result of the study and is printed too. Masks and other outputs of the models
    are computed once, on validation videos, and stored next to the report.
    """
    check_path(results, "study or ladder")
    load_torch()
    from evclip_ray.reports.figures import require_report_packages

    require_report_packages()
    from evclip_ray.reports.build import compose
    from evclip_ray.reports.render.write import write_report

    with bars():
        with stage("reading the results and drawing the charts"):
            composed = compose(
                results,
                out=out,
                evaluations=evaluations,
                shifts=shifts,
                videos=videos,
                seed=seed,
                cache=cache_folder(cache),
            )
        with stage("writing the report"):
            written = write_report(composed.report, composed.out, root=results)
    for note in composed.notes:
        console.print(note, soft_wrap=True, markup=False)
    console.print(
        f"{composed.out} ({megabytes(written[0].stat().st_size)}); as Markdown {written[1].name}, "
        f"as CSV {counted(len(written) - 2, 'file')} in {composed.out.with_suffix('').name}/",
        soft_wrap=True,
        markup=False,
    )
    console.print(composed.report.headline.text, soft_wrap=True, markup=False)
