"""Run a command on a cluster as a job, which goes on when this shell closes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evclip_ray.cli.display import console
from evclip_ray.cli.job_command import JobCommand
from evclip_ray.cli.options import INTERRUPTED, example
from evclip_ray.config import ConfigError

if TYPE_CHECKING:
    from evclip_ray.cluster.jobs.client import Jobs, JobState

DASHBOARD = "http://127.0.0.1:8265"


class _Submit(click.Group):
    """`submit stop ID` is a command of its own; `submit tune ...` runs `tune ...` as a job."""

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """What is none of its own commands is the command to run."""
        if arguments[0] in self.commands:
            return super().resolve_command(context, arguments)
        return "run", _run, arguments


@click.group(
    "submit",
    cls=_Submit,
    subcommand_metavar="-- COMMAND [ARGS]... | status | logs | stop | fetch",
    epilog=example("evclip-ray submit -- tune ev_clip --data /shared/videos.csv --out /shared/studies/mine"),
)
@click.option(
    "--address", default=DASHBOARD, envvar="EVCLIP_RAY_DASHBOARD", show_default=True,
    help="The cluster's dashboard, through a tunnel or on the head.",
)  # fmt: skip
@click.option(
    "--env", "variables", multiple=True, metavar="NAME[=VALUE]",
    help="Environment variable of the job, by name from this shell or with its value; repeatable.",
)  # fmt: skip
@click.option(
    "--working-dir", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path(),
    help="Settings and lists in it are sent; data and credentials are not (default: here).",
)  # fmt: skip
@click.option("--follow/--no-follow", default=True, help="Print what the job prints until it ends.")
@click.pass_context
def submit(
    context: click.Context, address: str, variables: tuple[str, ...], working_dir: Path, follow: bool
) -> None:  # fmt: skip
    """Run a command on a cluster as a job, which goes on when this shell closes."""
    context.obj = {
        "address": address, "variables": variables, "working_dir": working_dir, "follow": follow,
    }  # fmt: skip


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def _run(context: click.Context, arguments: tuple[str, ...]) -> None:
    run_as_job(context, arguments, **context.obj)


def run_as_job(
    context: click.Context, arguments: Sequence[str], *, address: str, variables: Sequence[str] = (),
    working_dir: Path = Path(), follow: bool = True,
) -> None:  # fmt: skip
    """Send `arguments`, a whole command, to the cluster, and end with the job's exit status."""
    from evclip_ray.cluster.jobs.client import Jobs
    from evclip_ray.cluster.jobs.working_dir import select_files

    command = JobCommand.parse(arguments)
    packed = select_files(working_dir.resolve(), named=command.local_files(working_dir))
    environment = dict(_variable(text) for text in variables)
    jobs = Jobs(address)
    console.print(
        f"sending {len(packed.files)} files, {packed.size / 1e6:.2f} MB, of {packed.root}", soft_wrap=True
    )
    for reason, paths in packed.left_behind.items():
        listed = ", ".join(map(str, paths[:3])) + (", ..." if len(paths) > 3 else "")
        console.print(f"  {len(paths)} left here, each {reason}: {listed}", soft_wrap=True, markup=False)
    for name in environment:
        console.print(f"  with {name} (its value is kept by the cluster's head while the job is known)")
    job = jobs.submit(command.arguments, packed, environment=environment, out=command.out)
    console.print(f"job {job} at {jobs.address}; it goes on without this shell", soft_wrap=True)
    if follow:
        _follow(context, jobs, job)


def _follow(context: click.Context, jobs: "Jobs", job: str) -> None:
    at = f"--address {jobs.address}"
    try:
        state = jobs.follow(job, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        console.print(f"\nthe job goes on. Its log again: evclip-ray submit {at} logs {job}", soft_wrap=True)
        console.print(f"end it: evclip-ray submit {at} stop {job}", soft_wrap=True)
        context.exit(INTERRUPTED)
    _say(state)
    if state.state == "SUCCEEDED" and state.out:
        console.print(f"bring it here: evclip-ray submit {at} fetch {job} FOLDER", soft_wrap=True)
    context.exit(0 if state.state == "SUCCEEDED" else 1)


@submit.command(epilog=example("evclip-ray submit status"))
@click.argument("job", required=False)
@click.pass_obj
def status(given: dict[str, Any], job: str | None) -> None:
    """How a job is, or all of them."""
    from evclip_ray.cluster.jobs.client import Jobs

    jobs = Jobs(given["address"])
    for state in [jobs.state(job)] if job else jobs.all():
        _say(state)


@submit.command(epilog=example("evclip-ray submit logs raysubmit_3f0c"))
@click.argument("job")
@click.pass_context
def logs(context: click.Context, job: str) -> None:
    """What a job printed, and, unless --no-follow, what it goes on to print."""
    from evclip_ray.cluster.jobs.client import Jobs

    jobs = Jobs(context.obj["address"])
    if context.obj["follow"]:
        _follow(context, jobs, job)
    else:
        click.echo(jobs.logs(job), nl=False)


@submit.command(epilog=example("evclip-ray submit stop raysubmit_3f0c"))
@click.argument("job")
@click.pass_obj
def stop(given: dict[str, Any], job: str) -> None:
    """End a job; what it finished is kept, and the same command goes on."""
    from evclip_ray.cluster.jobs.client import Jobs

    _say(Jobs(given["address"]).stop(job))


@submit.command(epilog=example("evclip-ray submit fetch raysubmit_3f0c studies/mine"))
@click.argument("job")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--through", default=None,
    help="Where the folder is not mounted here: auto, HOST:6379 or ray:// (default: the host's, port 10001).",
)  # fmt: skip
@click.pass_obj
def fetch(given: dict[str, Any], job: str, out: Path, through: str | None) -> None:
    """Bring the folder that a job writes here, as the new folder OUT."""
    from urllib.parse import urlsplit

    from evclip_ray.cluster.jobs.client import Jobs
    from evclip_ray.cluster.jobs.fetch import fetch as fetch_folder

    state = Jobs(given["address"]).state(job)
    if state.out is None:
        raise ConfigError(f"job {job}: writes no folder (its command has no --out)")
    through = through or f"ray://{urlsplit(given['address']).hostname}:10001"
    how = fetch_folder(Path(state.out), out.resolve(), through=through)
    console.print(f"{state.out} {how} to {out}", soft_wrap=True)


def _say(state: "JobState") -> None:
    console.print(
        f"{state.id}  {state.state:<9}  {state.seconds:7.0f} s  {state.command}", soft_wrap=True, markup=False
    )
    if state.message and state.state == "FAILED":
        console.print(f"  {state.message.strip().splitlines()[0]}", soft_wrap=True, markup=False)


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name.isidentifier():
        raise ConfigError(f"--env needs NAME or NAME=VALUE, got {name!r} before the first '='")
    if not equals and name not in os.environ:
        raise ConfigError(f"--env {name}: this shell has no such variable; give it as {name}=VALUE")
    return name, value if equals else os.environ[name]
