"""Report what a study or a ladder found."""

from pathlib import Path

import click

from evclip_ray.cli.display import console
from evclip_ray.cli.options import cache_folder, cache_option, example


@click.command(epilog=example("evclip-ray report studies/mine --evaluation studies/mine/best-test"))
@click.argument("results", type=click.Path(path_type=Path), metavar="STUDY_OR_LADDER")
@click.option(
    "--out", type=click.Path(path_type=Path), default=None,
    help="HTML file; Markdown and a folder of CSV files go beside it (default: STUDY_OR_LADDER/report.html).",
)  # fmt: skip
@click.option(
    "--evaluation", "evaluations", multiple=True, type=click.Path(path_type=Path),
    help="Folder that evaluate wrote, to be shown too; repeatable (default: those beside the checkpoint).",
)  # fmt: skip
@click.option(
    "--shift", "shifts", multiple=True, type=click.Path(path_type=Path),
    help="Folder that shift wrote, to be shown with it; repeatable.",
)  # fmt: skip
@click.option(
    "--videos", default=8, show_default=True, type=click.IntRange(0), help="Videos whose masks are shown."
)
@click.option("--seed", default=0, show_default=True, help="Of the lot that draws some of these videos.")
@cache_option
def report(
    results: Path, out: Path | None, evaluations: tuple[Path, ...], shifts: tuple[Path, ...],
    videos: int, seed: int, cache: Path | None,
) -> None:  # fmt: skip
    """Write one HTML file with everything that a study or a ladder found; it needs no network.

    What the models are needed for is computed once, on validation videos, and kept beside the report.
    """
    from evclip_ray.reports.build import compose
    from evclip_ray.reports.render.write import write_report

    composed = compose(
        results, out=out, evaluations=evaluations, shifts=shifts, videos=videos, seed=seed,
        cache=cache_folder(cache),
    )  # fmt: skip
    written = write_report(composed.report, composed.out, root=results)
    for note in composed.notes:
        console.print(note, soft_wrap=True, markup=False)
    size = written[0].stat().st_size / 1e6
    console.print(
        f"{composed.out} ({size:.1f} MB); as Markdown {written[1].name}, as CSV {len(written) - 2} files in "
        f"{composed.out.with_suffix('').name}/",
        soft_wrap=True, markup=False,
    )  # fmt: skip
