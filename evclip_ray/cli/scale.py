"""Climb a ladder of studies."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evclip_ray.cli.display import DecodeView, StudyView, bars, console, rows_table
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
)
from evclip_ray.config import ConfigError, parse_assignments

if TYPE_CHECKING:
    from evclip_ray.scaling.ladder import LadderRun, RungState
    from evclip_ray.tuning.plan import StudyPlan
    from evclip_ray.tuning.tuner import Outcome, StudyRun


@click.command(
    epilog=example(
        "evclip-ray scale ev_clip --ladder RN50,ViT-B-32,ViT-B-16 --data videos/manifest.csv --trials 16"
    )
)
@click.argument("space")
@data_options
@click.option(
    "--ladder", "backbones", default=None, metavar="NAME,NAME,...", help="Backbones, small to large."
)
@click.option(
    "--over",
    default=None,
    metavar="PATH=VALUE,...",
    help="Any other path: data.shots=2,4,8 or method.name=...",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the ladder (default: ladders/NAME).",
)
@click.option("--trials", type=click.IntRange(1), default=None, help="Trials of each rung.")
@click.option(
    "--device-hours", type=click.FloatRange(0, min_open=True), default=None,
    help="Instead of trials (or with them as a limit): GPU-hours of each rung; CPU-hours without a GPU.",
)  # fmt: skip
@click.option("--measure/--count-only", default=True, help="Measure time and memory of each rung, or not.")
@click.option("--dry-run", is_flag=True, help="Print rungs, trials and cost, and stop.")
@settings
@cache_option
@address_option
@click.pass_context
def scale(
    context: click.Context, space: str, data: str | None, root: str | None, backbones: str | None,
    over: str | None, out: Path | None, trials: int | None, device_hours: float | None, measure: bool,
    dry_run: bool, assignments: tuple[str, ...], cache: Path | None, address: str | None,
) -> None:  # fmt: skip
    """One study a rung of a ladder, and how accuracy grows with cost; the same command again resumes."""
    from evclip_ray.cluster import connect
    from evclip_ray.scaling.ladder import LadderRun
    from evclip_ray.scaling.ladder_steps import Ladder
    from evclip_ray.tuning.search_space import find_space

    ladder = Ladder.read(
        find_space(space),
        {**sources(data, root), **parse_assignments(assignments)},
        over=_over(backbones, over),
        # With device-hours only the time limits a rung, unless --trials does too.
        study={"trials": trials} if trials is not None or device_hours is not None else None,
    )
    run = LadderRun(
        ladder, out or Path("ladders") / ladder.name, cache=cache_folder(cache),
        device_hours=device_hours, measure=measure,
    )  # fmt: skip
    workers = max(rung.space.study.workers for rung in ladder.rungs)
    shared = () if dry_run else (run.folder.root, run.cache)
    with connect(address, verbose=context.obj, dashboard=workers > 1, storage=shared) as machines:
        with bars() as progress:
            plans = run.plan(machines, measure=dry_run, progress=DecodeView(progress))
        _show_plans(run, plans, whole=dry_run)
        if dry_run:
            _show_cost(run, plans)
            return
        states = run.run(machines, prepare=_prepare, search=_search, on_rung=_say)
    _show_ladder(context, run, states)


def _over(backbones: str | None, over: str | None) -> dict[str, list[Any]] | None:
    from evclip_ray.scaling.ladder_steps import BACKBONE, parse_over

    if backbones is not None and over is not None:
        raise ConfigError("--ladder and --over both name the rungs; give one of them")
    if backbones is not None:
        return {BACKBONE: [name.strip() for name in backbones.split(",") if name.strip()]}
    return parse_over(over) if over is not None else None


def _prepare(study: "StudyRun") -> None:
    console.print(f"\nrung {study.folder.root.name}", markup=False)
    with bars() as progress:
        study.prepare(DecodeView(progress))


def _search(study: "StudyRun", plan: "StudyPlan") -> "Outcome":
    for found in plan.warm_start:
        console.print(f"  from {found}", soft_wrap=True, markup=False)
    with bars() as progress:
        view = StudyView(progress, trials=plan.missing, epochs=plan.epochs)
        return study.run(plan, view, DecodeView(progress))


def _say(state: "RungState") -> None:
    said = f": {state.error}" if state.error else ""
    console.print(f"rung {state.name} {state.state}{said}", soft_wrap=True, markup=False)


def _show_plans(run: "LadderRun", plans: "dict[str, StudyPlan]", *, whole: bool) -> None:
    console.print(f"ladder {run.ladder.name} in {run.folder.root}, {len(plans)} rungs", soft_wrap=True)
    hours = f"; {run.device_hours:g} device-hours each" if run.device_hours is not None else ""
    for name, plan in plans.items():
        console.print(f"\n  rung {name}{hours}", markup=False)
        lines = plan.lines()
        for heading, text in lines if whole else lines[:2]:
            console.print(f"    {heading:<10} {text}", soft_wrap=True, markup=False)


def _show_cost(run: "LadderRun", plans: "dict[str, StudyPlan]") -> None:
    from evclip_ray.scaling.ladder import total_seconds
    from evclip_ray.tuning.cost import duration

    said = f"about {duration(total_seconds(plans))} at most, if no trial is stopped early"
    if run.device_hours is not None:
        said = f"at most {run.device_hours * len(plans):.3g} device-hours of trials"
    console.print(f"\nthe ladder: {said}")


def _show_ladder(context: click.Context, run: "LadderRun", states: "list[RungState]") -> None:
    shown = ["rung", "trials", "val_top1", "zero_shot_top1", "inference_gmac", "trainable_parameters",
             "latency_seconds", "pareto"]  # fmt: skip
    rows = [{name: row[name] for name in shown} for row in run.rows]
    console.print(rows_table("Best validation top-1 of each rung", rows))
    if any(row["random_weights"] for row in run.rows):
        console.print("RANDOM WEIGHTS: these numbers say nothing of a trained CLIP")
    console.print(
        f"tables   {run.folder.root / 'ladder.csv'}, costs, fits, transfer, importance", soft_wrap=True
    )
    console.print(f"report   evclip-ray report {run.folder.root}", soft_wrap=True)
    if states[-1].state == "interrupted":
        console.print("\ninterrupted; everything finished is kept. Go on with:")
        console.print(f"  {this_command()}", soft_wrap=True, markup=False)
        context.exit(INTERRUPTED)
    failed = [state for state in states if state.state == "failed"]
    if failed:
        names = ", ".join(state.name for state in failed)
        raise click.ClickException(
            f"{len(failed)} of {len(states)} rungs failed ({names}); the first: {failed[0].error}"
        )
