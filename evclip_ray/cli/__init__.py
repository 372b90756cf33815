"""The command line: each command parses its options, calls one function and prints the result."""

import contextlib
import io
import logging
import os
import sys
from typing import Any, NoReturn

import click
from pydantic import ValidationError

from evclip_ray.cli.cache import cache_group
from evclip_ray.cli.check import check
from evclip_ray.cli.cluster import cluster_group
from evclip_ray.cli.cost import cost
from evclip_ray.cli.data import manifest, shards
from evclip_ray.cli.discover import settings_command, spaces_group
from evclip_ray.cli.doctor import doctor
from evclip_ray.cli.evaluate import evaluate, import_checkpoint
from evclip_ray.cli.export import export
from evclip_ray.cli.options import exit_interrupted
from evclip_ray.cli.predict import predict
from evclip_ray.cli.progress import load_torch
from evclip_ray.cli.push import push
from evclip_ray.cli.ray_messages import separate_stderr
from evclip_ray.cli.report import report
from evclip_ray.cli.restart import RestartOnce
from evclip_ray.cli.scale import scale
from evclip_ray.cli.serve import serve
from evclip_ray.cli.shift import shift
from evclip_ray.cli.studies import studies_group
from evclip_ray.cli.submit import submit
from evclip_ray.cli.train import train
from evclip_ray.cli.tune import tune
from evclip_ray.config import explain_all
from evclip_ray.formatting import printable
from evclip_ray.machine_faults import find_fault, gpu_fault
from evclip_ray.termination import exit_status, raise_on_signals, set_ray_death_handler
from evclip_ray.version import __version__

_SECTIONS = {
    "Search, train and score": (tune, train, evaluate, import_checkpoint, report, scale),
    "Use a checkpoint": (predict, serve, export, push),
    "Settings": (settings_command, spaces_group),
    "Videos": (manifest, shards, shift),
    "Machine, costs and cache": (doctor, check, cost, cache_group, studies_group),
    "Clusters": (cluster_group, submit),
}


_SLOW = {"check", "cache", "studies"}
"""Commands that import PyTorch and OpenCLIP at once. The others need neither, or have checks that do not."""


def _load_torch(arguments: list[str]) -> None:
    is_slow = bool(arguments) and arguments[0] in _SLOW
    if is_slow and not {"-h", "--help"} & set(arguments):
        load_torch()


class _Main(click.Group):
    """Group that prints a user's mistake as one line, exit status 1, and lists its commands by section."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            _load_torch([*context._protected_args, *context.args])
            return super().invoke(context)
        except KeyboardInterrupt:
            exit_interrupted(context)
        except click.UsageError as error:
            # Without its context, click prints the error alone and not the two lines on the usage above it.
            error.ctx = None
            raise
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            line = _line(error)
            if line is None or context.params.get("verbose"):
                raise
            raise click.ClickException(printable(line)) from None

    def main(self, args: Any = None, *others: Any, **options: Any) -> Any:
        """Run the command of this process, or one that another program gives by `args`."""
        if args is not None:
            return super().main(args, *others, **options)
        separate_stderr()
        raise_on_signals()
        set_ray_death_handler(RestartOnce())
        try:
            return super().main(args, *others, **options)
        except SystemExit as end:
            if end.code == exit_status():
                _end_at_once(end.code)
            raise

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section of the help text for each group of related commands."""
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                # click would list all commands in one alphabetical table.
                rows = [(command.name or "", command.get_short_help_str(100)) for command in commands]
                formatter.write_dl(rows)


def _line(error: Exception) -> str | None:
    """Return the line to print for an error; None for a bug, which keeps its traceback."""
    # Errors of this package have a text of their own. ConfigError and ArtifactError are ValueErrors.
    is_plain = isinstance(error, OSError) and error.errno and error.strerror == os.strerror(error.errno)
    if isinstance(error, ValidationError):
        return explain_all(error)
    if isinstance(error, ValueError | OSError) and not is_plain:
        return str(error)
    if (gpu := gpu_fault(error)) is not None:
        return gpu
    fault = find_fault(error)
    if fault is not None:
        return fault.describe()
    return str(error) if isinstance(error, OSError) else None


def _end_at_once(status: int) -> NoReturn:
    """End an interrupted command without the destructors of C++.

    Ray and PyTorch have threads that an interrupted start leaves behind. They crash (SIGSEGV) when Python
    takes the interpreter down around them. Ray itself has been ended by then.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        # A closed pipe is no reason for another exit status.
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--verbose", is_flag=True, help="Show the log of Ray, and tracebacks of errors.")
@click.pass_context
def main(context: click.Context, verbose: bool) -> None:
    """Find the EV-CLIP prompts that work best on your own videos."""
    context.obj = verbose
    for stream in (sys.stdout, sys.stderr):
        # Names of files may have characters that the terminal's encoding lacks, as in LANG=C.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(message)s",
        stream=sys.stderr,
    )


for _commands in _SECTIONS.values():
    for _command in _commands:
        main.add_command(_command)
