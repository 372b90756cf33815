"""The command `scale`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evclip_ray.api import cache_folder
from evclip_ray.cli.display import console, print_random_weights, rows_table
from evclip_ray.cli.early_checks import check_data, check_space, check_videos
from evclip_ray.cli.options import (
    cache_option,
    data_options,
    example,
    exit_interrupted,
    overrides_of,
    resume_command,
    settings,
)
from evclip_ray.cli.progress import bars, load_torch
from evclip_ray.cli.ray_messages import ray_messages
from evclip_ray.cli.remote import address_option
from evclip_ray.cli.study_progress import study_view
from evclip_ray.config import ConfigError
from evclip_ray.formatting import counted, duration, shell
from evclip_ray.progress import stage

if TYPE_CHECKING:
    from evclip_ray.scaling.ladder import LadderRun, StepState
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
    "--ladder",
    "backbones",
    default=None,
    metavar="NAME,NAME,...",
    help="Backbones of the steps, from small to large. Default: the ladder of the space.",
)
@click.option(
    "--over",
    default=None,
    metavar="PATH=VALUE,...",
    help="Steps over another setting: data.shots=2,4,8 or method.name=linear_probe,ev_clip.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the ladder. Default: ladders/NAME, where NAME is that of the space.",
)
@click.option("--trials", type=click.IntRange(1), default=None, help="Number of trials of each step.")
@click.option(
    "--device-hours",
    type=click.FloatRange(0, min_open=True),
    default=None,
    help="Limit of each step in GPU-hours (CPU-hours if there is no GPU), instead of --trials or with it.",
)
@click.option(
    "--share-points",
    type=click.IntRange(0),
    default=None,
    metavar="K",
    help="Evaluate the K best points of each step at every step. K x (steps - 1) more trials per step. "
    "Default: that of the space, or 0.",
)
@click.option(
    "--measure/--count-only",
    default=True,
    show_default=True,
    help="Measure time and memory of each step's best model, or only count its operations.",
)
@click.option("--dry-run", is_flag=True, help="Print steps, trials and cost without running the ladder.")
@settings
@cache_option
@address_option
@click.pass_context
def scale(
    context: click.Context,
    space: str,
    data: str | None,
    root: str | None,
    backbones: str | None,
    over: str | None,
    out: Path | None,
    trials: int | None,
    device_hours: float | None,
    share_points: int | None,
    measure: bool,
    dry_run: bool,
    assignments: tuple[str, ...],
    cache: Path | None,
    address: str | None,
) -> None:
    """Run one study for each step of a ladder, to show how accuracy grows with cost.

    The same command resumes a ladder. SPACE is a YAML file, or the name of a shipped search space.
    """
    overrides = overrides_of(data, root, assignments)
    path = check_space(space)
    check_data(data)
    from evclip_ray.scaling.ladder_steps import Ladder

    ladder = Ladder.read(
        path,
        overrides,
        over=_over(backbones, over),
        # With --device-hours only the time limits a step, unless --trials is given too.
        study={"trials": trials} if trials is not None or device_hours is not None else None,
        share_points=share_points,
    )
    out = out or Path("ladders") / ladder.name
    check_videos(ladder.steps[0].space, out, cache)
    load_torch()
    from evclip_ray.cluster import connect
    from evclip_ray.scaling.ladder import LadderRun

    run = LadderRun(
        ladder,
        out,
        cache=cache_folder(cache),
        device_hours=device_hours,
        measure=measure,
    )
    # One connection serves all steps; the dashboard is needed if any step has groups of workers.
    workers = max(step.space.study.workers for step in ladder.steps)
    shared = () if dry_run else (run.folder.root, run.cache)
    with ray_messages(context.obj) as messages, bars() as steps:
        # Starting Ray takes seconds, and wrong paths are found without it.
        with stage("reading the lists"):
            run.check_videos()
        with connect(
            address, verbose=context.obj, dashboard=workers > 1, storage=shared, progress=steps
        ) as machines:
            with stage("planning the steps"):
                plans = run.plan(machines, measure=dry_run, progress=steps)
            _show_plans(run, plans, whole=dry_run)
            if dry_run:
                _show_cost(run, plans)
                for plan in plans.values():
                    plan.check_leaks()
                return

            def prepare(study: "StudyRun") -> None:
                messages.move_to(run.folder.root)
                console.print(f"\nstep {study.folder.root.name}", markup=False)
                study.prepare(steps)

            def search(study: "StudyRun", plan: "StudyPlan") -> "Outcome":
                view = study_view(steps, plan, deadline=study.deadline)
                outcome = study.run(plan, view, steps)
                # The time may have ended before the trials. The next step has bars of its own.
                view.close()
                return outcome

            states = run.run(machines, prepare=prepare, search=search, on_step=_print_state)
    _show_ladder(context, run, states)


def _over(backbones: str | None, over: str | None) -> dict[str, list[Any]] | None:
    from evclip_ray.scaling.ladder_steps import BACKBONE, parse_over

    if backbones is not None and over is not None:
        raise ConfigError("--ladder and --over both define the steps; give one of them")
    if backbones is not None:
        return {BACKBONE: [name.strip() for name in backbones.split(",") if name.strip()]}
    return parse_over(over) if over is not None else None


def _print_state(state: "StepState") -> None:
    reason = f": {state.error}" if state.error else ""
    console.print(f"step {state.name} {state.state}{reason}", soft_wrap=True, markup=False)


def _show_plans(run: "LadderRun", plans: "dict[str, StudyPlan]", *, whole: bool) -> None:
    console.print(
        f"ladder {run.ladder.name} in {run.folder.root}, {counted(len(plans), 'step')}", soft_wrap=True
    )
    if shared := run.ladder.share_points:
        most = shared * (len(plans) - 1)
        console.print(
            f"each step also runs the best {counted(shared, 'point')} of every other step: at most "
            f"{counted(most, 'trial')} more, counted below",
            soft_wrap=True,
        )
    hours = f"; {run.device_hours:g} device-hours each" if run.device_hours is not None else ""
    for name, plan in plans.items():
        console.print(f"\n  step {name}{hours}", markup=False)
        for heading, text in plan.lines():
            if not whole and heading not in ("videos", "trials"):
                continue
            console.print(f"    {heading:<10} {text}", soft_wrap=True, markup=False)


def _show_cost(run: "LadderRun", plans: "dict[str, StudyPlan]") -> None:
    from evclip_ray.scaling.ladder import total_seconds

    total = f"about {duration(total_seconds(plans))} at most, if no trial is stopped early"
    if run.device_hours is not None:
        total = f"at most {run.device_hours * len(plans):.3g} device-hours of trials"
    console.print(f"\nthe ladder: {total}")


def _or_none(value: Any) -> Any:
    # A step without a score, and one without a corrected score, has NaN there.
    return None if value != value else value


def _show_ladder(context: click.Context, run: "LadderRun", states: "list[StepState]") -> None:
    shown = (
        "trials",
        "val_top1",
        "corrected_top1",
        "zero_shot_top1",
        "inference_gmac",
        "trainable_parameters",
        "latency_seconds",
        "pareto",
    )
    rows = [{"step": row["rung"], **{name: _or_none(row[name]) for name in shown}} for row in run.rows]
    console.print(rows_table("Best validation top-1 of each step", rows))
    for row in run.rows:
        console.print(f"importance at step {row['rung']}: {row['important']}", soft_wrap=True, markup=False)
    print_random_weights({row["rung"]: "random" for row in run.rows if row["random_weights"]})
    console.print(
        f"tables   {run.folder.root / 'ladder.csv'}, costs, fits, transfer, importance", soft_wrap=True
    )
    console.print(f"report   {shell('evclip-ray', 'report', run.folder.root)}", soft_wrap=True)
    if any(state.state != "finished" for state in states):
        from evclip_ray.tuning.study_folder import COMMAND

        # The report prints this command, which resumes the ladder.
        run.folder.note(**{COMMAND: resume_command()})
    if any(state.state == "interrupted" for state in states):
        exit_interrupted(context)
    failed = [state for state in states if state.state == "failed"]
    if failed:
        names = ", ".join(state.name for state in failed)
        raise click.ClickException(
            f"{len(failed)} of {counted(len(states), 'step')} failed ({names}). The first error: "
            f"{failed[0].error}"
        )
