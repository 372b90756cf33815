"""Score checkpoints, and take over published ones."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evclip_ray.cli.display import DecodeView, bars, console, rows_table
from evclip_ray.cli.options import (
    address_option,
    cache_folder,
    cache_option,
    data_options,
    example,
    settings,
    sources,
    warn_random,
)
from evclip_ray.config import parse_assignments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evclip_ray.evaluation.evaluate import Assessment
    from evclip_ray.metrics.intervals import IntervalKind

_SCORED = {"adapted": "adapted", "zero_shot": "zero-shot CLIP"}


@click.command(
    epilog=example(
        "evclip-ray evaluate studies/debug/best --data dark.csv --protocol cross_domain --views 4x3"
    )
)
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@data_options
@click.option("--split", default="test", show_default=True)
@click.option(
    "--protocol", default="closed_set", show_default=True,
    help="closed_set, cross_dataset (its own classes), cross_domain (shared ones), base_to_novel, zero_shot.",
)  # fmt: skip
@click.option(
    "--views", default="1x1", show_default=True, help="Views of a video, TEMPORALxSPATIAL, such as 4x3."
)
@click.option(
    "--average", default="probability", show_default=True, help="What of the views: probability or logit."
)
@click.option(
    "--interval", type=click.Choice(["t", "bootstrap"]), default="t", show_default=True,
    help="Interval of a mean over several checkpoints.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), default=None,
    help="Folder of the tables, or of a folder for each checkpoint (default: CHECKPOINT-SPLIT).",
)  # fmt: skip
@settings
@cache_option
@address_option
@click.pass_obj
def evaluate(
    verbose: bool, checkpoints: tuple[Path, ...], data: str | None, root: str | None, split: str,
    protocol: str, views: str, average: str, interval: "IntervalKind", out: Path | None,
    assignments: tuple[str, ...], cache: Path | None, address: str | None,
) -> None:  # fmt: skip
    """Score checkpoints on a split, beside zero-shot CLIP on the same views.

    Several checkpoints, of runs that differ in their seed, also give the mean and its interval.
    """
    from evclip_ray.cluster import connect
    from evclip_ray.evaluation.evaluate import assess
    from evclip_ray.evaluation.plan import plan_reading
    from evclip_ray.metrics.multi_view import EvaluationViews
    from evclip_ray.training.datamodule import is_prepared, prepare

    cache = cache_folder(cache)
    overrides = {**sources(data, root), **parse_assignments(assignments)}
    scored = EvaluationViews.parse(views, average)
    found = []
    for number, checkpoint in enumerate(checkpoints):
        reading = plan_reading(
            checkpoint, overrides, split=split, cache=cache, protocol=protocol, views=scored
        )
        if all(is_prepared(plan, cache) for plan in reading.plans.values()):
            videos = {side: prepare(plan, cache=cache) for side, plan in reading.plans.items()}
        else:
            with connect(address, verbose=verbose), bars() as progress:
                videos = {
                    side: prepare(plan, cache=cache, progress=DecodeView(progress))
                    for side, plan in reading.plans.items()
                }
        tables = out or checkpoint.with_name(f"{checkpoint.name}-{split}")
        if out is not None and len(checkpoints) > 1:
            tables = out / f"{number}-{checkpoint.parent.name}"
        found.append(assess(reading, videos, out=tables))
        _show_assessments(found[-1])
        console.print(f"confusion matrix, per-class and per-video tables: {tables}", soft_wrap=True)
    if len(checkpoints) > 1:
        _show_means(checkpoints, found, interval, out or checkpoints[0].parent)


@click.command(
    "import-checkpoint",
    epilog=example(
        "evclip-ray import-checkpoint model.pth.tar --data videos/manifest.csv --out runs/published"
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@data_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the checkpoint.")
@settings
@cache_option
def import_checkpoint(
    file: Path,
    data: str | None,
    root: str | None,
    out: Path,
    assignments: tuple[str, ...],
    cache: Path | None,
) -> None:
    """Take over a published EV-CLIP model file; its classes are those of --data."""
    from evclip_ray.evaluation import import_checkpoint as published

    overrides = {**sources(data, root), **parse_assignments(assignments)}
    record = published.import_checkpoint(file, out, overrides, cache=cache_folder(cache))
    method = record["experiment"]["method"]
    console.print(
        f"{method['prompts']} prompts, {record['num_trainable']:,} parameters, "
        f"{len(record['classes'])} classes, in {out}\nevaluate it:  evclip-ray evaluate {out} --split test",
        soft_wrap=True,
    )


def _show_assessments(sides: "dict[str, Assessment]") -> None:
    from evclip_ray.evaluation.seed_means import harmonic

    for side, found in sides.items():
        warn_random(found.weights)
        if found.leaking_rows:
            console.print(f"LEAKS reach {found.leaking_rows} rows: these numbers are too good")
        if len(sides) > 1:
            console.print(f"{side}: {len(found.classes)} classes")
        for name, numbers in reversed(found.numbers.items()):
            low, high = numbers["top1_interval"]
            console.print(
                f"{_SCORED[name]:<15} top-1 {numbers['top1']:.3f} (95 % interval {low:.3f} to {high:.3f})"
                f"  top-5 {numbers['top5']:.3f}  mean class accuracy {numbers['mean_class_accuracy']:.3f}"
                f"  calibration error {numbers['calibration_error']:.3f}  on {numbers['videos']} videos",
                soft_wrap=True,
            )
        for label, videos, accuracies in found.per_class:
            each = "  ".join(
                f"{_SCORED[name].removesuffix(' CLIP')} {value:.3f}"
                for name, value in zip(found.numbers, accuracies, strict=True)
            )
            console.print(f"  {label:<24} {videos:>5} videos  {each}", markup=False)
        if found.skipped:
            console.print(f"{found.skipped} videos could not be decoded and were left out")
    if set(sides) == {"base", "novel"}:
        for name in reversed(sides["base"].numbers):
            console.print(f"{_SCORED[name]:<15} harmonic mean of top-1 {harmonic(sides, name):.3f}")


def _show_means(
    checkpoints: "Sequence[Path]", found: "list[dict[str, Assessment]]", interval: "IntervalKind", out: Path
) -> None:
    from evclip_ray.artifacts import write_csv
    from evclip_ray.evaluation.seed_means import not_seeds_of_one, over_checkpoints

    rows = [mean.row() for mean in over_checkpoints(found, interval=interval)]
    console.print(rows_table(f"Means over {len(found)} checkpoints, 95 % {interval} intervals", rows))
    differing = not_seeds_of_one(checkpoints)
    if differing:
        console.print(
            f"these are not runs of one experiment that differ in their seed: {', '.join(differing)}",
            soft_wrap=True, markup=False,
        )  # fmt: skip
    write_csv(out / "means.csv", list(rows[0]), (row.values() for row in rows))
    console.print(f"the means: {out / 'means.csv'}", soft_wrap=True, markup=False)
