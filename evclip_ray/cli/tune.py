"""The command `tune`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evclip_ray.api import open_study, run_study, shortfall
from evclip_ray.cli.display import (
    best_of_each_table,
    console,
    leaderboard_table,
    print_choice,
    print_random_weights,
    zero_shot_line,
)
from evclip_ray.cli.early_checks import check_data, check_study
from evclip_ray.cli.hints import study_hints
from evclip_ray.cli.options import (
    Duration,
    cache_option,
    data_options,
    example,
    exit_interrupted,
    overrides_of,
    print_resume,
    resume_command,
    settings,
)
from evclip_ray.cli.progress import bars, load_torch
from evclip_ray.cli.ray_messages import ray_messages
from evclip_ray.cli.remote import address_option
from evclip_ray.cli.restart import remaining
from evclip_ray.cli.study_progress import StudyView, resume_line, study_view
from evclip_ray.formatting import counted
from evclip_ray.records import LeaderboardRow, TrialState

if TYPE_CHECKING:
    from evclip_ray.tuning.plan import StudyPlan
    from evclip_ray.tuning.tuner import StudyRun


def _refuse_pack(context: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:
        from evclip_ray.tuning.search_space import PACKING_REMOVED

        raise click.ClickException(f"`--pack`: {PACKING_REMOVED}")


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
    help="Folder of the study. Default: studies/NAME, where NAME is that of the space.",
)
@click.option(
    "--trials",
    type=int,
    default=None,
    help="Number of trials, including finished ones. A larger number adds trials to a study. "
    "Default: that of the space, or 16.",
)
@click.option(
    "--time-budget",
    type=Duration(),
    default=None,
    help="Pause the study after this time (90m, 2h30m, 1d). The same command resumes it.",
)
@click.option(
    "--warm-start",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Folder of an earlier study. Its best points are run first, and the sampler learns from its trials. "
    "Repeatable.",
)
@click.option(
    "--fork",
    type=click.Path(path_type=Path),
    default=None,
    help="Begin a new study in this folder after the videos of --out have changed. Old videos keep their "
    "split, and the best points of --out are run first.",
)
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Run failed trials again, with their points, for example after their cause was fixed.",
)
@click.option(
    "--objective",
    default=None,
    help="Epochs whose validation top-1 is the value of a trial: best, last, or mean_of_last_K such as "
    "mean_of_last_3. Default: that of the space, or best.",
)
@click.option("--seed", type=int, default=None, help="Seed of the sampler. Default: that of the space, or 0.")
@click.option(
    "--workers", type=int, default=None, help="Processes per trial (DDP). Default: that of the space, or 1."
)
@click.option(
    "--min-workers",
    type=int,
    default=None,
    help="Keep training with at least this many workers after machines are lost. Default: wait for all.",
)
@click.option("--pack", default=None, hidden=True, expose_value=False, callback=_refuse_pack)
@click.option(
    "--cpus-per-worker",
    "cpus",
    type=float,
    default=None,
    help="CPUs per training process. Default: that of the space, or 1.",
)
@click.option(
    "--gpus-per-worker",
    "gpus",
    type=float,
    default=None,
    help="GPUs per training process. Processes share a GPU below 1: 0.25 lets four trials use one. "
    "Default: as many trials share a GPU as fit in its memory.",
)
@click.option(
    "--memory-per-worker",
    "memory_gb",
    type=float,
    default=None,
    help="Memory per training process in GiB. Default: that of the space, or 1.5.",
)
@click.option(
    "--price-per-hour",
    type=float,
    default=None,
    help="Price of one GPU for an hour (of one CPU if there is no GPU), for the cost that --dry-run prints.",
)
@click.option("--dry-run", is_flag=True, help="Print trials, resources and cost without running the study.")
@settings
@cache_option
@address_option
@click.pass_context
def tune(
    context: click.Context,
    /,
    space: str,
    data: str | None,
    root: str | None,
    out: Path | None,
    time_budget: float | None,
    warm_start: tuple[Path, ...],
    fork: Path | None,
    retry_failed: bool,
    dry_run: bool,
    assignments: tuple[str, ...],
    cache: Path | None,
    address: str | None,
    **study: Any,
) -> None:
    """Search prompt sizes, learning rates and backbones. The same command resumes a study.

    SPACE is a YAML file, or the name of a shipped search space (evclip-ray spaces ls).
    """
    overrides = overrides_of(data, root, assignments)
    given = {name: value for name, value in study.items() if value is not None}
    check_data(data)
    check_study(space, overrides, given, out=fork or out, cache=cache)
    load_torch()
    with bars():
        run = open_study(
            space,
            out=out,
            overrides=overrides,
            study=given,
            cache=cache,
            warm_start=warm_start,
            fork=fork,
            time_budget=remaining(time_budget),
            retry_failed=retry_failed,
        )
    if run.missing() == 0:
        from evclip_ray.tuning.trial_repair import num_ended

        console.print(f"{ended_trials(num_ended(run.folder), run.trials)}\n")
    with ray_messages(context.obj) as messages, bars() as steps:

        def show_plan(plan: "StudyPlan") -> StudyView:
            console.print(f"study {run.space.name} in {run.folder.root}", soft_wrap=True)
            for heading, text in plan.lines():
                console.print(f"  {heading:<10} {text}", soft_wrap=True, markup=False)
            if line := resume_line(run.folder.trials(), run.trials, retry_failed=retry_failed):
                console.print(f"  {'resumed':<10} {line}", soft_wrap=True)
            return study_view(steps, plan, deadline=run.deadline)

        outcome = run_study(
            run,
            address=address,
            verbose=context.obj,
            dry_run=dry_run,
            progress=steps,
            watch=show_plan,
            on_claim=messages.move_to,
        )
    # A dry run: the plan was printed by `show_plan`.
    if outcome is None:
        return
    if outcome.interrupted or outcome.missing:
        from evclip_ray.tuning.study_folder import COMMAND

        # The report prints this command, which resumes the study.
        run.folder.note(**{COMMAND: resume_command()})
    if outcome.interrupted:
        exit_interrupted(context)
    _show_study(run, outcome.rows)
    failed = [row for row in outcome.rows if row.state == TrialState.FAILED]
    if 0 < len(failed) < len(outcome.rows):
        console.print(
            f"\n{counted(len(failed), 'trial')} failed; --retry-failed runs them again. "
            f"The first error: {failed[0].error}",
            soft_wrap=True,
            markup=False,
        )
    # The end of the time budget is expected, so the exit status is 0; missing trials are an error.
    problem = shortfall(run, outcome)
    if problem and not outcome.out_of_time:
        raise click.ClickException(problem)
    if problem:
        console.print(f"\n{problem}. Resume with:")
        print_resume()


def ended_trials(ended: int, requested: float) -> str:
    """Return the line about a study in which no trial is left to run."""
    if ended > requested:
        return (
            f"{counted(ended, 'trial', 'has', 'have')} ended, more than the {requested:.0f} requested; a "
            f"larger --trials adds some"
        )
    ended_ones = "the only trial has" if requested == 1 else f"all {counted(requested, 'trial')} have"
    return f"{ended_ones} ended; a larger --trials adds some"


def _show_study(run: "StudyRun", rows: Sequence[LeaderboardRow]) -> None:
    from evclip_ray.training.checkpoint import CONFIG, read_record

    if not rows:
        return
    root = run.folder.root
    console.print(leaderboard_table(rows, run.folder.ledger().get("selection", {}).values()))
    if run.space.balanced is not None:
        console.print(best_of_each_table(rows, run.space.balanced.path))
    print_choice(rows)
    console.print(zero_shot_line(rows))
    if (root / "best" / CONFIG).is_file():
        print_random_weights(read_record(root / "best")["weights"])
    console.print()
    for purpose, text in study_hints(root, run.cache):
        console.print(f"{purpose:<18} {text}", soft_wrap=True)
