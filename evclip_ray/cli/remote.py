"""Commands that run on a cluster: the option `--address`, and sending a command there as a job."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evclip_ray.cli.display import console
from evclip_ray.cli.job_command import JobCommand
from evclip_ray.config import ConfigError
from evclip_ray.formatting import counted, shell
from evclip_ray.termination import exit_status

if TYPE_CHECKING:
    from evclip_ray.cluster.jobs.client import Jobs, JobState


def address_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--address` to a command. An address from outside the cluster sends the command there as a job.

    Ray Data and Ray Train do not run through Ray Client. For an address `ray://HOST:PORT` only the
    dashboard of that cluster is looked up, and the job is submitted to it.
    """

    @functools.wraps(command)
    def run_or_submit(*arguments: Any, **options: Any) -> Any:
        address = options["address"] or ""
        if address.startswith("ray://"):
            from evclip_ray.cluster.connection import dashboard_of

            address = dashboard_of(address)
        if address.startswith(("http://", "https://")):
            context = click.get_current_context()
            # The typed arguments are sent, not the parsed ones: the head parses them again in the same way.
            return run_as_job(context, without_address(sys.argv[1:]), address=address)
        return command(*arguments, **options)

    return click.option(
        "--address",
        default=None,
        help="Running Ray cluster: auto or HOST:6379 on its own machines. From outside: http://HOST:8265 or "
        "ray://HOST:10001, which send the command as a job. Default: no cluster, this machine only.",
    )(run_or_submit)


def without_address(arguments: Sequence[str]) -> list[str]:
    """Return a command line without its `--address`."""
    remaining: list[str] = []
    for index, argument in enumerate(arguments):
        is_value = index > 0 and arguments[index - 1] == "--address"
        if argument != "--address" and not argument.startswith("--address=") and not is_value:
            remaining.append(argument)
    return remaining


def run_as_job(
    context: click.Context,
    arguments: Sequence[str],
    *,
    address: str,
    variables: Sequence[str] = (),
    working_dir: Path = Path(),
    follow: bool = True,
) -> None:
    """Run a command as a job on a cluster and exit with the status of the job.

    Args:
        context: Click's context, whose root command parses `arguments`.
        arguments: The command with its options, without `evclip-ray`.
        address: Dashboard of the cluster, `http://HOST:8265`.
        variables: Environment variables of the job, each `NAME` or `NAME=VALUE`.
        working_dir: Folder whose settings and lists are sent with the job.
        follow: Print the log of the job until it ends. If False, return after the submission.
    """
    from evclip_ray.cluster.jobs.client import Jobs
    from evclip_ray.cluster.jobs.working_dir import select_files

    # Parsed here first: a typing error must not cost the start of a job.
    command = JobCommand.parse(context.find_root().command, arguments)
    selection = select_files(working_dir.resolve(), named=command.local_files(working_dir))
    environment = dict(_environment_variable(text) for text in variables)
    jobs = Jobs(address)
    console.print(
        f"sending {counted(len(selection.files), 'file')}, {selection.size / 1e6:.2f} MB, "
        f"of {selection.root}",
        soft_wrap=True,
    )
    for reason, paths in selection.excluded.items():
        listed = ", ".join(map(str, paths[:3])) + (", ..." if len(paths) > 3 else "")
        console.print(f"  not sent: {len(paths)}, each {reason}: {listed}", soft_wrap=True, markup=False)
    for name in environment:
        console.print(f"  with {name} (the cluster's head stores its value together with the job)")
    job = jobs.submit(command.arguments, selection, environment=environment, out=command.out)
    console.print(f"job {job} at {jobs.address}; it continues without this shell", soft_wrap=True)
    if follow:
        follow_job(context, jobs, job)


def follow_job(context: click.Context, jobs: "Jobs", job: str) -> None:
    """Print the log of a job until it ends, then exit with its status. Ctrl-C leaves the job running."""
    submit = ("evclip-ray", "submit", "--address", jobs.address)
    try:
        state = jobs.follow(job, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        console.print(f"\nthe job continues. Follow its log: {shell(*submit, 'logs', job)}", soft_wrap=True)
        console.print(f"end it: {shell(*submit, 'stop', job)}", soft_wrap=True)
        context.exit(exit_status())
    print_state(state)
    if state.state == "SUCCEEDED" and state.out:
        console.print(f"copy its folder: {shell(*submit, 'fetch', job)} FOLDER", soft_wrap=True)
    # The status of the job becomes that of the command, so that scripts see a failure.
    context.exit(0 if state.state == "SUCCEEDED" else 1)


def print_state(state: "JobState") -> None:
    """Print one line about a job, and the reason if it failed."""
    console.print(
        f"{state.id}  {state.state:<9}  {state.seconds:7.0f} s  {state.command}", soft_wrap=True, markup=False
    )
    if state.message and state.state == "FAILED":
        console.print(f"  {state.message.strip().splitlines()[0]}", soft_wrap=True, markup=False)


def _environment_variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name.isidentifier():
        # The value may be a secret, so the message must not repeat it.
        raise ConfigError(f"--env needs NAME or NAME=VALUE, got {name!r} before the first '='")
    if not equals and name not in os.environ:
        raise ConfigError(f"--env {name}: this shell has no such variable. Pass it as {name}=VALUE")
    return name, value if equals else os.environ[name]
