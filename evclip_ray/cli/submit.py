"""Jobs on a cluster: run a command there, show its state and log, stop it, and copy its results."""

from pathlib import Path
from typing import Any

import click

from evclip_ray.cli.display import console
from evclip_ray.cli.options import example
from evclip_ray.cli.remote import follow_job, print_state, run_as_job
from evclip_ray.config import ConfigError

DASHBOARD = "http://127.0.0.1:8265"


class _Submit(click.Group):
    """Group in which `submit stop ID` is a subcommand and `submit tune ...` runs `tune ...` as a job."""

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the subcommand, or the hidden command that submits all arguments as a job."""
        if arguments[0] in self.commands:
            return super().resolve_command(context, arguments)
        # Not a subcommand: all arguments belong to the command that becomes the job.
        return "run", _run, arguments


@click.group(
    "submit",
    cls=_Submit,
    subcommand_metavar="-- COMMAND [ARGS]... | status | logs | stop | fetch",
    epilog=example("evclip-ray submit -- tune ev_clip --data /shared/videos.csv --out /shared/studies/mine"),
)
@click.option(
    "--address",
    default=DASHBOARD,
    envvar="EVCLIP_RAY_DASHBOARD",
    show_default=True,
    help="Dashboard of the cluster, through a tunnel or on the head.",
)
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="Environment variable of the job: NAME copies it from this shell, NAME=VALUE sets it. Repeatable.",
)
@click.option(
    "--working-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(),
    help="Folder whose settings and lists are sent. Data and credentials are not sent. "
    "Default: the current folder.",
)
@click.option("--follow/--no-follow", default=True, help="Print the log of the job until it ends.")
@click.pass_context
def submit(
    context: click.Context, address: str, variables: tuple[str, ...], working_dir: Path, follow: bool
) -> None:
    """Run a command as a job on a cluster. The job continues when this shell closes."""
    context.obj = {
        "address": address,
        "variables": variables,
        "working_dir": working_dir,
        "follow": follow,
    }


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def _run(context: click.Context, arguments: tuple[str, ...]) -> None:
    run_as_job(context, arguments, **context.obj)


@submit.command(epilog=example("evclip-ray submit status"))
@click.argument("job", required=False)
@click.pass_obj
def status(options: dict[str, Any], job: str | None) -> None:
    """Show the state of a job, or of all jobs."""
    from evclip_ray.cluster.jobs.client import Jobs

    jobs = Jobs(options["address"])
    for state in [jobs.state(job)] if job else jobs.all():
        print_state(state)


@submit.command(epilog=example("evclip-ray submit logs raysubmit_3f0c"))
@click.argument("job")
@click.pass_context
def logs(context: click.Context, job: str) -> None:
    """Print the log of a job. Follow it until the job ends, unless --no-follow is set."""
    from evclip_ray.cluster.jobs.client import Jobs

    jobs = Jobs(context.obj["address"])
    if context.obj["follow"]:
        follow_job(context, jobs, job)
    else:
        click.echo(jobs.logs(job), nl=False)


@submit.command(epilog=example("evclip-ray submit stop raysubmit_3f0c"))
@click.argument("job")
@click.pass_obj
def stop(options: dict[str, Any], job: str) -> None:
    """Stop a job. Its results so far stay, and submitting the same command again resumes it."""
    from evclip_ray.cluster.jobs.client import Jobs

    print_state(Jobs(options["address"]).stop(job))


@submit.command(epilog=example("evclip-ray submit fetch raysubmit_3f0c studies/mine"))
@click.argument("job")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--through",
    default=None,
    help="Address to copy through if the folder is not mounted on this machine: auto, HOST:6379 or "
    "ray://HOST:10001. Default: port 10001 of the dashboard's host.",
)
@click.pass_obj
def fetch(options: dict[str, Any], job: str, out: Path, through: str | None) -> None:
    """Copy the output folder of a job to the new folder OUT."""
    from urllib.parse import urlsplit

    from evclip_ray.cluster.jobs.client import Jobs
    from evclip_ray.cluster.jobs.fetch import fetch as fetch_folder

    state = Jobs(options["address"]).state(job)
    if state.out is None:
        raise ConfigError(f"job {job}: has no output folder (its command has no --out)")
    # 10001 is the default port of Ray Client on the head, where the dashboard runs too.
    through = through or f"ray://{urlsplit(options['address']).hostname}:10001"
    method = fetch_folder(Path(state.out), out.resolve(), through=through)
    console.print(f"{state.out} {method} to {out}", soft_wrap=True)
