"""Train one experiment."""

from pathlib import Path
from typing import Any

import click

from evclip_ray.cli.display import DecodeView, bars, console
from evclip_ray.cli.options import (
    address_option,
    cache_folder,
    cache_option,
    data_options,
    example,
    settings,
    sources,
)
from evclip_ray.config import parse_assignments


@click.command(epilog=example("evclip-ray train studies/debug/best.yaml --set seed=1 --out runs/best-seed1"))
@click.argument("config", type=click.Path(path_type=Path))
@data_options
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Folder of the run (default: runs/NAME)."
)
@click.option("--workers", default=1, show_default=True, help="Training processes (Ray Train, DDP).")
@click.option("--min-workers", default=None, type=int, help="So many go on where machines are lost.")
@click.option("--cpus-per-worker", default=1.0, show_default=True)
@click.option("--gpus-per-worker", default=None, type=float, help="Default: 1 where there are any.")
@settings
@cache_option
@address_option
@click.pass_obj
def train(
    verbose: bool, config: Path, data: str | None, root: str | None, out: Path | None, workers: int,
    min_workers: int | None, cpus_per_worker: float, gpus_per_worker: float | None,
    assignments: tuple[str, ...], cache: Path | None, address: str | None,
) -> None:  # fmt: skip
    """Train one experiment, for example a study's best.yaml; the same command again resumes it."""
    from evclip_ray.cluster import connect
    from evclip_ray.training.experiment import read_experiment
    from evclip_ray.training.train import train_experiment

    experiment = read_experiment(config, {**sources(data, root), **parse_assignments(assignments)})
    out = out or Path("runs") / config.stem
    shared = (out.resolve(), cache_folder(cache))
    with (
        connect(address, verbose=verbose, dashboard=workers > 1, storage=shared) as machines,
        bars() as progress,
    ):
        metrics = train_experiment(
            experiment, folder=out, cache=cache_folder(cache), machines=machines,
            on_cluster=address is not None, workers=workers, min_workers=min_workers,
            cpus=cpus_per_worker, gpus=gpus_per_worker, decoding=DecodeView(progress), say=_say_epoch,
        )  # fmt: skip
    if not metrics["best_epoch"]:
        raise click.ClickException(
            "the loss was no number in the first epoch, so nothing was kept; lower optim.lr and give "
            "another --out"
        )
    console.print(
        f"best epoch {metrics['best_epoch']}: val top-1 {metrics['best_val_top1']:.3f} "
        f"on {metrics['val_videos']} videos (zero-shot CLIP {metrics['zero_shot_top1']:.3f})\n"
        f"evaluate it:  evclip-ray evaluate {out / 'best'} --split test",
        soft_wrap=True,
    )


def _say_epoch(metrics: dict[str, Any]) -> None:
    if metrics.get("diverged"):
        console.print(f"epoch {metrics['epoch']:>3}  diverged: the loss is not a number; lower optim.lr")
        return
    console.print(
        f"epoch {metrics['epoch']:>3}  loss {metrics['train_loss']:.4f}  val top-1 {metrics['val_top1']:.3f}"
        f"  val loss {metrics['val_loss']:.4f}  {metrics['seconds']:.1f} s"
    )
