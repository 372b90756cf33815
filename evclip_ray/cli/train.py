"""The command `train`."""

from pathlib import Path
from typing import Any

import click

from evclip_ray import api
from evclip_ray.cli.display import console
from evclip_ray.cli.early_checks import check_data, check_experiment
from evclip_ray.cli.hints import score_command
from evclip_ray.cli.options import cache_option, data_options, example, overrides_of, settings
from evclip_ray.cli.progress import bars, load_torch
from evclip_ray.cli.ray_messages import ray_messages
from evclip_ray.cli.remote import address_option
from evclip_ray.formatting import counted
from evclip_ray.records import EpochMetrics


@click.command(epilog=example("evclip-ray train studies/debug/best.yaml --set seed=1 --out runs/best-seed1"))
@click.argument("config", type=click.Path(path_type=Path))
@data_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the run. Default: runs/NAME, where NAME is that of CONFIG, for a best.yaml of its study.",
)
@click.option(
    "--fork",
    type=click.Path(path_type=Path),
    default=None,
    help="Train a new run in this folder after the videos of --out changed. Old videos keep their split.",
)
@click.option(
    "--workers", default=1, show_default=True, help="Number of training processes (DDP in Ray Train)."
)
@click.option(
    "--min-workers",
    default=None,
    type=int,
    help="Keep training with at least this many workers after machines are lost. Default: wait for all.",
)
@click.option(
    "--cpus-per-worker",
    default=None,
    type=float,
    help="CPUs per training process. Default: 1 with several processes. A single one has as many threads as "
    "the trial of a best.yaml, otherwise one per CPU of this machine.",
)
@click.option(
    "--gpus-per-worker",
    default=None,
    type=float,
    help="GPUs per training process. Default: 1 if there is a GPU.",
)
@settings
@cache_option
@address_option
@click.pass_obj
def train(
    verbose: bool,
    /,
    config: Path,
    data: str | None,
    root: str | None,
    assignments: tuple[str, ...],
    **options: Any,
) -> None:
    """Train one experiment, such as the best.yaml of a study. The same command resumes it."""
    overrides = overrides_of(data, root, assignments)
    check_data(data)
    check_experiment(config, overrides, cache=options["cache"])
    load_torch()
    with ray_messages(verbose), bars() as steps:
        run = api.train(
            config,
            overrides=overrides,
            verbose=verbose,
            progress=steps,
            on_epoch=_print_epoch,
            **options,
        )
    last = run.metrics
    console.print(describe_selected(last), soft_wrap=True)
    if command := score_command(run.checkpoint, options["cache"]):
        console.print(f"score it:  {command}", soft_wrap=True)


def describe_selected(last: EpochMetrics) -> str:
    """Return the line about the epoch that the checkpoint has."""
    if not last.val_videos:
        return (
            f"last epoch {last.best_epoch}, trained on all training videos without validation "
            "(data.selection=last_epoch)"
        )
    kind = "last" if last.values.get("selection") == "last_epoch" else "best"
    return (
        f"{kind} epoch {last.best_epoch}: val top-1 {last.best_val_top1:.3f} on "
        f"{counted(last.val_videos, 'video')} "
        f"(zero-shot CLIP {last.number('zero_shot_top1'):.3f})"
    )


def _print_epoch(metrics: EpochMetrics) -> None:
    if metrics.diverged:
        console.print(f"epoch {metrics.epoch:>3}  diverged: the loss is NaN; lower optim.lr")
        return
    scores = (
        f"val top-1 {metrics.val_top1:.3f}  val loss {metrics.number('val_loss'):.4f}  "
        if metrics.val_videos
        else ""
    )
    console.print(
        f"epoch {metrics.epoch:>3}  loss {metrics.number('train_loss'):.4f}  {scores}"
        f"{metrics.number('seconds'):.1f} s"
    )
