"""The commands `manifest` and `shards`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evclip_ray.api import cache_folder
from evclip_ray.cli.display import console, rows_table
from evclip_ray.cli.early_checks import SPLITS, check_data
from evclip_ray.cli.options import (
    cache_option,
    chosen_class_names,
    chosen_columns,
    class_names_option,
    columns_option,
    data_options,
    example,
    overrides_of,
    settings,
)
from evclip_ray.cli.progress import bars, load_torch
from evclip_ray.cli.ray_messages import ray_messages
from evclip_ray.cli.remote import address_option
from evclip_ray.config import parse_assignments
from evclip_ray.formatting import counted, shell

if TYPE_CHECKING:
    from evclip_ray.data.manifest.manifest import Manifest


@click.group()
def manifest() -> None:
    """Make a manifest (a list of videos with labels and splits), or verify one."""


@manifest.command(epilog=example("evclip-ray manifest verify videos/manifest.csv"))
@click.argument("file")
@click.option("--root", default=None, help="Folder or URI (s3://...) that the paths are relative to.")
@columns_option
@class_names_option
@click.option("--workers", default=os.cpu_count(), show_default=True, help="Videos decoded at the same time.")
@click.pass_context
def verify(context: click.Context, file: str, root: str | None, workers: int) -> None:
    """Decode every video of FILE and list the broken ones. The exit status is 1 if there are any.

    Before that, labels that CLIP reads as the same text are listed, and a sample of the files is looked for.

    True masks that FILE names are read too, and compared with the size and the frames of their videos. Also
    prints the videos, groups and classes of each split, and the videos of each class, of all classes with
    `evclip-ray --verbose`.
    """
    from evclip_ray.data.manifest.class_table import MAX_CLASSES
    from evclip_ray.data.manifest.integrity import verify_manifest
    from evclip_ray.data.manifest.label_names import name_labels, warn_of_numbers
    from evclip_ray.data.manifest.located_files import check_files
    from evclip_ray.data.manifest.manifest import read_manifest
    from evclip_ray.data.video.view import describe_pixels
    from evclip_ray.training.same_labels import describe_same_labels, find_same_labels

    listed, names = read_manifest(file, root=root, columns=chosen_columns()), chosen_class_names()
    listed = listed if names is None else name_labels(listed, names)
    warn_of_numbers(listed)
    _print_splits(listed, max_classes=None if context.obj else MAX_CLASSES)
    same = find_same_labels(listed.classes)
    if same:
        pairs = describe_same_labels(listed, same)
        line = (
            f"same labels  CLIP reads as the same text: {pairs}; rename them, or set data.merge_labels=true"
        )
        console.print(line, soft_wrap=True, markup=False)
    check_files(listed.column("path"), None, listed.root, listed.source)
    broken = broken_masks = 0
    reshaped: list[str] = []
    with bars() as steps:
        steps("verifying", 0, len(listed))
        for number, report in enumerate(verify_manifest(listed, workers=workers, guarded=True), start=1):
            steps("verifying", number, len(listed))
            if not report.ok:
                broken += 1
                console.print(f"broken  {report.path}: {report.reason}", soft_wrap=True, markup=False)
            if report.info is not None and report.info.has_other_shape:
                reshaped.append(f"{report.path}, {report.info.pixel_aspect}")
            if report.mask_reason:
                broken_masks += 1
                line = f"broken mask  row {report.row + 1}, {report.path}: {report.mask_reason}"
                console.print(line, soft_wrap=True, markup=False)
    click.echo(f"{counted(len(listed), 'video')}, {counted(len(listed.classes), 'label')}, {broken} broken")
    if named := len(listed) - listed.table["mask"].null_count:
        click.echo(f"masks for {named} of {counted(len(listed), 'video')}, {broken_masks} broken")
    if reshaped:
        console.print(describe_pixels(reshaped), soft_wrap=True, markup=False)
    # The exit status lets a script stop before a study.
    if broken or broken_masks or same:
        context.exit(1)


@manifest.command(
    "import", epilog=example("evclip-ray manifest import ucf101 --root UCF-101 --split 1 --out ucf101.csv")
)
@click.argument("dataset")
@click.option("--root", required=True, help="Folder or URI of the videos, or of folders of frames.")
@click.option(
    "--lists",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the official lists. Default: in the root or next to it.",
)
@click.option("--split", type=int, default=None, help="Number of the official split, if there are several.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Manifest to write.")
@click.option(
    "--allow-leaks",
    is_flag=True,
    help="Write the manifest even if its splits share videos, groups or file contents.",
)
@click.option(
    "--compare-bytes/--no-compare-bytes",
    default=True,
    show_default=True,
    help="Compare file contents, to find one video under two names.",
)
@settings
@click.pass_obj
def import_manifest(
    verbose: bool,
    dataset: str,
    root: str,
    lists: Path | None,
    split: int | None,
    out: Path,
    allow_leaks: bool,
    compare_bytes: bool,
    assignments: tuple[str, ...],
) -> None:
    """Convert the official lists of a data set to a manifest, and report inconsistent rows.

    The last line has the options that reproduce the protocol of the lists.

    DATASET is ucf101, hmdb51, arid, egtea, epic_kitchens, ssv2 or kinetics, or a list format: path_label,
    mmaction, ez_clip or ev_clip_shots. Options of a data set are given by --set, such as --set version=1.5.
    """
    from evclip_ray.data.importers import import_dataset
    from evclip_ray.data.manifest.leaks import refuse_leaks
    from evclip_ray.data.manifest.manifest import write_manifest

    options = {"lists": lists, "split": split}
    options = {name: value for name, value in options.items() if value is not None}
    report = import_dataset(dataset, root, **options, **parse_assignments(assignments))
    listed = report.manifest
    click.echo(f"{listed.source}: {counted(len(listed), 'video')}, {counted(len(report.classes), 'class')}")
    _print_splits(listed, max_classes=None if verbose else 0)
    for name in ("missing", "unlisted", "duplicates", "mislabelled", "miscounted"):
        rows = getattr(report, name)
        click.echo(f"{name:<12} {len(rows)}")
        shown = rows if verbose else rows[:3]
        for row in shown:
            click.echo(f"  {row}")
        if len(rows) > len(shown):
            click.echo(f"  and {len(rows) - len(shown)} more; evclip-ray --verbose lists all")
    leaks = refuse_leaks(listed, allow=allow_leaks, content=compare_bytes)
    write_manifest(listed, out)
    click.echo(f"{'leaks':<12} {len(leaks)}")
    setting = ""
    if report.is_selected_by_last_epoch:
        setting = " --set data.selection=last_epoch"
        click.echo(
            f"{'selection':<12} no validation videos in the lists. As published, all "
            f"{counted(len(listed.in_split('train')), 'training video', 'trains', 'train')} and the last "
            "epoch counts (data.selection=last_epoch; a study is scored by cross-validation). With "
            "data.selection=validation, data.val_fraction of them are held out and choose the epoch"
        )
    click.echo(f"wrote {out}; use it with {shell('--data', out, '--root', listed.root)}{setting}")


@click.command(
    epilog=example(
        "evclip-ray shards --data videos/manifest.csv --split train --split val --set view.num_frames=16"
    )
)
@data_options
@click.option(
    "--split",
    "splits",
    type=click.Choice(SPLITS),
    multiple=True,
    default=("train", "val"),
    show_default=True,
    help="Split to decode. Repeatable.",
)
@settings
@cache_option
@address_option
@click.pass_obj
def shards(
    verbose: bool,
    data: str | None,
    root: str | None,
    splits: tuple[str, ...],
    assignments: tuple[str, ...],
    cache: Path | None,
    address: str | None,
) -> None:
    """Decode videos to Arrow shards ahead of time. Finished shards are skipped.

    Also prints the videos, groups and classes of each split; `evclip-ray --verbose` adds those of each class.
    """
    from evclip_ray.training.datamodule import prepare
    from evclip_ray.training.experiment import ExperimentConfig
    from evclip_ray.training.video_plan import plan_videos

    check_data(data)
    cache = cache_folder(cache)
    experiment = ExperimentConfig.load({}, overrides_of(data, root, assignments))
    plan = plan_videos(experiment, cache=cache, splits=splits)
    _print_splits(plan.manifest, max_classes=None if verbose else 0)
    load_torch()
    from evclip_ray.cluster import connect
    from evclip_ray.metrics.multi_view import EvaluationViews, coverage_line, spatial_coverage

    with ray_messages(verbose), bars() as steps, connect(address, verbose=verbose, progress=steps):
        videos = prepare(plan, cache=cache, progress=steps)
    for split, decoded in videos.sets.items():
        skipped = len(decoded.shards.skipped)
        views, view = EvaluationViews(), decoded.shards.view
        coverage = coverage_line(spatial_coverage(decoded.shards.sizes, view, views), view, views)
        click.echo(f"{split}: {coverage}")
        click.echo(
            f"{split}: {counted(len(decoded), 'video')}, {skipped} skipped, in {decoded.shards.folder}"
        )


def _print_splits(listed: "Manifest", *, max_classes: int | None) -> None:
    from evclip_ray.data.manifest.class_table import class_table
    from evclip_ray.data.manifest.splits import summarize_splits

    summaries = summarize_splits(listed)
    rows = [
        {
            "split": summary.split,
            "videos": summary.videos,
            "share": summary.share,
            "groups": summary.groups,
            "classes": sum(map(bool, summary.classes.values())),
            "lowest_share_of_a_class": summary.lowest,
            "highest": summary.highest,
        }
        for summary in summaries
    ]
    console.print(rows_table("Splits", rows))
    if max_classes != 0:
        table = class_table(listed, max_classes=max_classes)
        console.print(rows_table("Videos of each class", table))
