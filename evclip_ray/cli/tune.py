"""Search a space."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evclip_ray.cli.display import DecodeView, StudyView, bars, console, leaderboard_table, zero_shot_line
from evclip_ray.cli.duration import DURATION
from evclip_ray.cli.options import (
    INTERRUPTED,
    address_option,
    cache_folder,
    cache_option,
    data_options,
    example,
    settings,
    sources,
    this_command,
    warn_random,
)
from evclip_ray.config import parse_assignments

if TYPE_CHECKING:
    from evclip_ray.tuning.tuner import Outcome


def _refuse_pack(context: click.Context, option: click.Parameter, value: str | None) -> None:
    from evclip_ray.tuning.search_space import PACKING_REMOVED

    if value is not None:
        raise click.UsageError(f"`--pack`: {PACKING_REMOVED}")


@click.command(
    epilog=example(
        "evclip-ray tune search_spaces/debug.yaml --data videos/manifest.csv --trials 16 --out studies/mine"
    )
)
@click.argument("space")
@data_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the study (default: studies/NAME).",
)
@click.option("--trials", type=int, default=None, help="Trials in all; raise it later to add some.")
@click.option(
    "--time-budget",
    type=DURATION,
    default=None,
    help="End after this time (90m, 2h30m, 1d), everything kept; the same command goes on.",
)
@click.option(
    "--warm-start",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Folder of an earlier study: its best points first, its trials as evidence; repeatable.",
)
@click.option("--seed", type=int, default=None, help="Seed of the searcher.")
@click.option("--workers", type=int, default=None, help="Training processes of one trial.")
@click.option("--min-workers", type=int, default=None, help="So many go on where machines are lost.")
@click.option("--pack", default=None, hidden=True, expose_value=False, callback=_refuse_pack)
@click.option("--cpus-per-worker", type=float, default=None)
@click.option("--gpus-per-worker", type=float, default=None)
@click.option(
    "--price-per-hour", type=float, default=None, help="Of a GPU (or CPU, without): --dry-run says the cost."
)
@click.option("--dry-run", is_flag=True, help="Print trials, resources and cost, and stop.")
@settings
@cache_option
@address_option
@click.pass_context
def tune(
    context: click.Context, space: str, data: str | None, root: str | None, out: Path | None,
    trials: int | None, time_budget: float | None, warm_start: tuple[Path, ...], seed: int | None,
    workers: int | None, min_workers: int | None, cpus_per_worker: float | None,
    gpus_per_worker: float | None, price_per_hour: float | None, dry_run: bool,
    assignments: tuple[str, ...], cache: Path | None, address: str | None,
) -> None:  # fmt: skip
    """Search prompt sizes, learning rates and backbones; the same command again resumes."""
    from evclip_ray.cluster import connect
    from evclip_ray.tuning.search_space import find_space, read_space
    from evclip_ray.tuning.tuner import StudyRun

    study = {
        "trials": trials, "seed": seed, "workers": workers, "min_workers": min_workers,
        "cpus": cpus_per_worker, "gpus": gpus_per_worker, "price_per_hour": price_per_hour,
    }  # fmt: skip
    searched = read_space(
        find_space(space),
        {**sources(data, root), **parse_assignments(assignments)},
        study={name: value for name, value in study.items() if value is not None},
    )
    run = StudyRun(
        searched, out or Path("studies") / searched.name, cache=cache_folder(cache),
        warm_start=warm_start, time_budget=time_budget,
    )  # fmt: skip
    if run.missing() == 0:
        console.print(f"all {run.trials:.0f} trials are done; raise --trials to add some\n")
        _show_study(run.folder.root, run.folder.write_leaderboard())
        return
    shared = () if dry_run else (run.folder.root, run.cache)
    with connect(
        address, verbose=context.obj, dashboard=searched.study.workers > 1, storage=shared
    ) as machines:
        with bars() as progress:
            plan = run.plan(machines, measure=dry_run, progress=DecodeView(progress))
        console.print(f"study {searched.name} in {run.folder.root}", soft_wrap=True)
        for heading, text in plan.lines():
            console.print(f"  {heading:<10} {text}", soft_wrap=True, markup=False)
        if dry_run:
            return
        run.claim()
        with bars() as progress:
            run.prepare(DecodeView(progress))
        with bars() as progress:
            view = StudyView(progress, trials=plan.missing, epochs=plan.epochs)
            outcome = run.run(plan, view, DecodeView(progress))
    if outcome.interrupted:
        console.print("\ninterrupted; everything finished is kept. Go on with:")
        console.print(f"  {this_command()}", soft_wrap=True, markup=False)
        context.exit(INTERRUPTED)
    _show_study(run.folder.root, outcome.rows)
    if outcome.missing and outcome.out_of_time:
        _say_what_is_left(outcome)
    elif outcome.missing:
        raise click.ClickException(
            f"{outcome.missing:.0f} of {run.trials:.0f} trials were not run, although nothing interrupted "
            "them; the same command runs them, --verbose shows Ray's log"
        )
    elif all(row["state"] == "failed" for row in outcome.rows):
        raise click.ClickException(f"every trial failed; the first: {outcome.rows[0]['error']}")


def _say_what_is_left(outcome: "Outcome") -> None:
    paused = sum(row["state"] == "paused" for row in outcome.rows)
    left = "" if math.isinf(outcome.missing) else f"; {outcome.missing:.0f} trials are still to be run"
    console.print(f"\nthe time is up: {paused} trials are paused at an epoch{left}. Go on with:")
    console.print(f"  {this_command()}", soft_wrap=True, markup=False)


def _show_study(root: Path, rows: list[dict[str, Any]]) -> None:
    from evclip_ray.training.checkpoint import CONFIG, read_record

    if not rows:
        return
    console.print(leaderboard_table(rows))
    console.print(zero_shot_line(rows))
    if (root / "best" / CONFIG).is_file():
        warn_random(read_record(root / "best")["weights"])
    console.print(
        f"\nleaderboard   {root / 'leaderboard.csv'}\n"
        f"watch         tensorboard --logdir {root}\n"
        f"train it      evclip-ray train {root / 'best.yaml'}\n"
        f"test it       evclip-ray evaluate {root / 'best'} --split test",
        soft_wrap=True,
    )
