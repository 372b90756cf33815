"""The commands `evaluate` and `import-checkpoint`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evclip_ray import api
from evclip_ray.cli.display import console, print_random_weights, rows_table
from evclip_ray.cli.early_checks import SPLITS, check_checkpoint, check_data, check_path, check_protocol
from evclip_ray.cli.hints import score_command
from evclip_ray.cli.options import cache_option, data_options, example, overrides_of, settings
from evclip_ray.cli.progress import bars, load_torch
from evclip_ray.cli.ray_messages import ray_messages
from evclip_ray.cli.remote import address_option
from evclip_ray.formatting import counted, sample_size

if TYPE_CHECKING:
    from evclip_ray.api import ScoredCheckpoint

_SCORED = {"adapted": "adapted", "zero_shot": "zero-shot CLIP"}


@click.command(
    epilog=example(
        "evclip-ray evaluate studies/debug/best --data dark.csv --protocol cross_domain --views 4x3"
    )
)
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@data_options
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="test",
    show_default=True,
    help="Split to score. A list of other videos without splits is scored whole.",
)
@click.option(
    "--protocol",
    default="closed_set",
    show_default=True,
    help="closed_set: the classes of the training. cross_dataset: the classes of --data. cross_domain: the "
    "classes that both have. base_to_novel: trained and other classes separately. zero_shot: no checkpoint "
    "is scored.",
)
@click.option(
    "--views", default="1x1", show_default=True, help="Views per video, TEMPORALxSPATIAL, such as 4x3."
)
@click.option(
    "--average",
    default="probability",
    show_default=True,
    help="Scores that are averaged over the views of a video: probability or logit.",
)
@click.option(
    "--calibrate",
    is_flag=True,
    help="Fit a temperature on the checkpoint's own validation videos, never on test videos, and store it in "
    "the checkpoint, where predict finds it.",
)
@click.option(
    "--reject-risk",
    type=float,
    default=None,
    metavar="RISK",
    help="With --calibrate: choose the threshold below which a video is unknown, for at most this error, "
    "such as 0.1, among the accepted validation videos.",
)
@click.option(
    "--reject-below",
    type=float,
    default=None,
    metavar="P",
    help="With --calibrate: a video is unknown if its best probability is below P.",
)
@click.option(
    "--conformal",
    type=float,
    default=None,
    metavar="LEVEL",
    help="With --calibrate: predict sets of classes that hold the true one for this share of videos, such as "
    "0.9.",
)
@click.option(
    "--interval",
    type=click.Choice(["t", "bootstrap"]),
    default="t",
    show_default=True,
    help="Interval over seeds of a mean over several checkpoints: Student's t, or bootstrap widened for few "
    "seeds.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the tables, with several checkpoints a folder for each. Default: CHECKPOINT-SPLIT, and "
    "behind it the protocol and the name of the list if they are not those of the training.",
)
@settings
@cache_option
@address_option
@click.pass_obj
def evaluate(
    verbose: bool,
    /,
    checkpoints: tuple[Path, ...],
    data: str | None,
    root: str | None,
    interval: Any,
    out: Path | None,
    assignments: tuple[str, ...],
    **options: Any,
) -> None:
    """Score checkpoints on a split, and zero-shot CLIP on the same views.

    For several checkpoints of runs that differ in their seed, the mean and its interval are printed too.
    Where the manifest has a column `mask` with true masks, masks of the method are compared with them. Where
    a checkpoint is calibrated, its calibration is measured on the split.
    """
    overrides = overrides_of(data, root, assignments)
    check_protocol(options["protocol"])
    check_data(data)
    for checkpoint in checkpoints:
        check_checkpoint(checkpoint, overrides, reads_list=True, cache=options["cache"])
    load_torch()
    with ray_messages(verbose), bars() as steps:
        result = api.evaluate(
            checkpoints,
            overrides=overrides,
            interval=interval,
            out=out,
            verbose=verbose,
            progress=steps,
            on_checkpoint=_show_scores,
            **options,
        )
    # A single checkpoint has no interval over seeds.
    if len(checkpoints) > 1:
        _show_means(result, interval, out or checkpoints[0].parent)


@click.command(
    "import-checkpoint",
    epilog=example(
        "evclip-ray import-checkpoint model.pth.tar --data videos/manifest.csv --out runs/published"
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@data_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the new checkpoint.")
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
    """Convert a published EV-CLIP model FILE to a checkpoint. Its classes are those of --data."""
    overrides = overrides_of(data, root, assignments)
    check_path(file, "model file")
    check_data(data)
    load_torch()
    from evclip_ray.evaluation import import_checkpoint as published

    record = published.import_checkpoint(file, out, overrides, cache=api.cache_folder(cache))
    method = record["experiment"]["method"]
    console.print(
        f"{method['prompts']} prompts, {counted(record['num_trainable'], 'parameter')}, "
        f"{counted(len(record['classes']), 'class')}, in {out}",
        soft_wrap=True,
    )
    if command := score_command(out, cache):
        console.print(f"score it:  {command}", soft_wrap=True)


def _show_scores(scored: "ScoredCheckpoint") -> None:
    from evclip_ray.evaluation.seed_means import harmonic
    from evclip_ray.metrics.calibration_measures import calibration_lines
    from evclip_ray.metrics.mask_quality import mask_quality_lines

    for name, scores in scored.sets.items():
        print_random_weights(scores.weights)
        if scores.leaking_rows:
            console.print(f"LEAKS affect {counted(scores.leaking_rows, 'video')}: these numbers are too high")
        if len(scored.sets) > 1:
            console.print(f"{name}: {counted(len(scores.classes), 'class')}")
        if scores.extent:
            console.print(scores.extent, soft_wrap=True, markup=False)
        for method, numbers in reversed(scores.numbers.items()):
            low, high = numbers["top1_interval"]
            sample = sample_size(numbers["videos"], numbers["groups"])
            console.print(
                f"{_SCORED[method]:<15} top-1 {numbers['top1']:.3f}"
                f" (95 % interval {low:.3f} to {high:.3f}, over {sample})"
                f"  top-5 {numbers['top5']:.3f}  mean class accuracy {numbers['mean_class_accuracy']:.3f}"
                f"  calibration error {numbers['calibration_error']:.3f}",
                soft_wrap=True,
            )
        if scores.calibration:
            for line in calibration_lines(scores.calibration):
                console.print(line, soft_wrap=True, markup=False)
        if scores.mask_quality:
            for line in mask_quality_lines(scores.mask_quality):
                console.print(line, soft_wrap=True, markup=False)
        for label, videos, accuracies in scores.per_class:
            columns = "  ".join(
                f"{_SCORED[method].removesuffix(' CLIP')} {accuracy:.3f}"
                for method, accuracy in zip(scores.numbers, accuracies, strict=True)
            )
            console.print(f"  {label:<24} {videos:>5} videos  {columns}", markup=False)
        console.print(scores.views, soft_wrap=True)
        if scores.skipped:
            console.print(f"{counted(scores.skipped, 'video')} could not be decoded and are not scored")
    if set(scored.sets) == {"base", "novel"}:
        for method in reversed(scored.sets["base"].numbers):
            harmonic_mean = harmonic(scored.sets, method)
            console.print(f"{_SCORED[method]:<15} harmonic mean of top-1 {harmonic_mean:.3f}")
    console.print(f"confusion matrix, per-class and per-video tables: {scored.folder}", soft_wrap=True)


def _show_means(result: "api.Evaluation", interval: str, folder: Path) -> None:
    from evclip_ray.evaluation.seed_means import differing_settings

    rows = [mean.row() for mean in result.mean_scores]
    title = (
        f"Means over {counted(len(result.checkpoints), 'checkpoint')}, 95 % {interval} intervals over seeds"
    )
    console.print(rows_table(title, rows))
    differing = differing_settings([scored.checkpoint for scored in result.checkpoints])
    if differing:
        console.print(
            "these checkpoints are not runs of one experiment that differ in their seed: "
            f"{', '.join(differing)}",
            soft_wrap=True,
            markup=False,
        )
    console.print(f"means: {folder / 'means.csv'}", soft_wrap=True, markup=False)
