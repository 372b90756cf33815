"""The command `export`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evclip_ray.cli.display import console, error_console, rows_table
from evclip_ray.cli.early_checks import check_checkpoint
from evclip_ray.cli.options import example, settings
from evclip_ray.cli.progress import bars, load_torch
from evclip_ray.config import parse_assignments
from evclip_ray.formatting import counted, megabytes, short
from evclip_ray.progress import stage

if TYPE_CHECKING:
    from evclip_ray.deploy.export import Export
    from evclip_ray.deploy.export_parity import Parity

_MOST_ROWS = 20


@click.command(epilog=example("evclip-ray export studies/first/best --out model.onnx --videos videos/"))
@click.argument("checkpoint")
@click.option(
    "--format",
    "form",
    type=click.Choice(["onnx", "torch"]),
    default="onnx",
    show_default=True,
    help="onnx for ONNX Runtime, or torch for torch.export.load (.pt2).",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="Weights. float16 halves the file and keeps inputs, outputs and the mask in float32. int8 quantises "
    "the matrix products, for onnx.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File: .onnx, or .pt2 for torch.")
@click.option(
    "--open-classes",
    is_flag=True,
    help="Leave the class texts out: their features become an input of the model.",
)
@click.option(
    "--videos",
    multiple=True,
    metavar="FOLDER_OR_FILE",
    help="Videos to compare the export with PyTorch on. Repeatable. Default: random frames.",
)
@click.option("--opset", type=int, help="Version of ONNX's operators. Default: 20.")
@click.option("--force", is_flag=True, help="Replace an earlier export.")
@settings
@click.pass_context
def export(
    context: click.Context,
    checkpoint: str,
    form: Any,
    precision: Any,
    out: Path,
    open_classes: bool,
    videos: tuple[str, ...],
    opset: int | None,
    force: bool,
    assignments: tuple[str, ...],
) -> None:
    """Export a CHECKPOINT to one file that runs without evclip-ray, and compare it with PyTorch.

    CHECKPOINT is a folder, or a URI such as hf://user/name. The file OUT.json describes the classes and the
    preprocessing, and names the licences of the weights.

    The exit status is 1 if logits in float32 differ from those of PyTorch by more than 0.001.
    """
    names = _video_names(videos)
    overrides = parse_assignments(assignments)
    check_checkpoint(checkpoint, overrides)
    load_torch()
    from evclip_ray.deploy.export import export_checkpoint
    from evclip_ray.deploy.export_description import ExportPlan

    with bars(), stage("exporting and comparing with PyTorch"):
        exported = export_checkpoint(
            checkpoint,
            ExportPlan(out, form, precision, open_classes=open_classes, opset=opset),
            videos=names,
            overrides=overrides,
            force=force,
        )
    _show(exported)
    if not exported.parity.passed:
        context.exit(1)


def _video_names(arguments: tuple[str, ...]) -> tuple[str, ...]:
    if not arguments:
        return ()
    from evclip_ray.deploy.inputs import InputError, find_inputs

    found = find_inputs(arguments, lambda: sys.stdin)
    if found.live is not None:
        raise InputError(f"--videos {found.live.name}: must be files; a camera or stream cannot be compared")
    return found.videos


def _show(exported: "Export") -> None:
    parity, description = exported.parity, exported.description
    for warning in description["warnings"]:
        error_console.print(warning, soft_wrap=True)
    size = sum(file["bytes"] for file in description["files"].values())
    classes = (
        "open classes" if description["open_classes"] else f"{counted(len(description['classes']), 'class')}"
    )
    console.print(
        f"{exported.path} ({megabytes(size)}, {description['precision']}, {classes}); described in "
        f"{exported.path.name}.json",
        soft_wrap=True,
        markup=False,
    )
    for each in description["licences"]:
        console.print(f"{each['part']} {each['network']}: {each['licence']}", soft_wrap=True, markup=False)
    _show_parity(parity, exported.path)


def _show_parity(parity: "Parity", path: Path) -> None:
    # Those that differ most; all rows are in the JSON file.
    videos = sorted(parity.videos, key=lambda video: -video.max_difference)
    rows = [
        {
            "video": video.video,
            "PyTorch": video.pytorch,
            "export": video.exported,
            "largest difference": video.max_difference,
        }
        for video in videos
    ]
    console.print(rows_table("Comparison with PyTorch in float32", rows[:_MOST_ROWS]))
    if len(rows) > _MOST_ROWS:
        console.print(f"and {len(rows) - _MOST_ROWS} more that differ less")
    for failed in parity.failed:
        error_console.print(f"{failed.video}: {failed.error}", soft_wrap=True, markup=False)
    number = counted(len(parity.videos), "random frame" if parity.is_random else "video")
    advice = "; give --videos for real ones" if parity.is_random else ""
    agree = sum(video.agrees for video in parity.videos)
    console.print(
        f"same best class for {agree} of {number}{advice}\n"
        f"difference of the logits: largest {short(parity.max_difference)}, mean "
        f"{short(parity.mean_difference)}; every video: {path.name}.parity.json",
        soft_wrap=True,
        markup=False,
    )
    if not parity.passed:
        limit = "" if parity.tolerance is None else f", more than {parity.tolerance:g}"
        error_console.print(
            f"The export DIFFERS from PyTorch: a logit is off by {short(parity.max_difference)}{limit}. It "
            "is marked in its JSON file (parity.passed); do not use it.",
            soft_wrap=True,
            markup=False,
        )
