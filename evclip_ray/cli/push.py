"""The command `push`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from evclip_ray.cli.display import console
from evclip_ray.cli.early_checks import check_checkpoint
from evclip_ray.cli.options import example
from evclip_ray.cli.progress import load_torch
from evclip_ray.formatting import shell

if TYPE_CHECKING:
    from evclip_ray.deploy.hub import PushPlan
    from evclip_ray.deploy.shared_copy import Rows


@click.command(epilog=example("evclip-ray push studies/first/best hf://user/waving --license apache-2.0"))
@click.argument("checkpoint")
@click.argument("target")
@click.option(
    "--public", is_flag=True, help="Let everybody read the repository. Without it, a new one is private."
)
@click.option(
    "--rows",
    type=click.Choice(["digests", "none", "paths"]),
    default="digests",
    show_default=True,
    help="What to share of the training videos. digests: of their content, so that an evaluation can refuse "
    "them. paths: also where they are.",
)
@click.option(
    "--export",
    "exports",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Add an exported model (.onnx, .pt2) with its description. Repeatable.",
)
@click.option(
    "--evaluation",
    "evaluations",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Show this evaluation on the card. Those in CHECKPOINT-SPLIT are shown anyway. Repeatable.",
)
@click.option(
    "--license",
    "licence",
    default=None,
    help="License of the checkpoint, such as apache-2.0. Default: none stated, or the one it inherits.",
)
@click.option("--data-name", default=None, help="Name of the training videos on the card.")
@click.option("--force", is_flag=True, help="Replace another checkpoint at the target.")
@click.option("--dry-run", is_flag=True, help="Print what would be uploaded and stop.")
def push(checkpoint: str, target: str, rows: str, dry_run: bool, **options: Any) -> None:
    """Upload a checkpoint with a model card to Hugging Face or to a storage.

    TARGET is hf://user/name, a URI such as s3://bucket/name, or a folder. The token of Hugging Face is that
    of `hf auth login`, or HF_TOKEN. Paths on this machine are not uploaded. `Recognizer.load` and
    `evclip-ray predict` take TARGET as a checkpoint.
    """
    check_checkpoint(checkpoint, {})
    load_torch()
    from evclip_ray.deploy import hub

    plan = hub.push(
        checkpoint, target, rows=cast("Rows", rows), dry_run=dry_run, on_plan=_show_plan, **options
    )
    if dry_run:
        console.print("dry run: nothing was uploaded")
    else:
        console.print(
            f"uploaded. Use it:  {shell('evclip-ray', 'predict', plan.target, 'my.mp4')}", soft_wrap=True
        )


def _show_plan(plan: "PushPlan") -> None:
    console.print(f"{plan.checkpoint} -> {plan.target} ({plan.access})", soft_wrap=True)
    for name, size in plan.files.items():
        note = "  replaces the one there" if name in plan.replaced else ""
        console.print(f"  {name:<22} {size:>13,} bytes{note}", soft_wrap=True)
    for name in plan.removed:
        console.print(f"  {name:<22} removed there", soft_wrap=True)
    if plan.has_own_card:
        console.print("README.md is uploaded as it is: your own text, or that of a download", soft_wrap=True)
    if plan.hidden:
        console.print(
            f"without the places of files on this machine: {', '.join(plan.hidden)}", soft_wrap=True
        )
    for setting, name in plan.needed_files.items():
        console.print(f"users have to give the file {name}: --set {setting}=FILE", soft_wrap=True)
