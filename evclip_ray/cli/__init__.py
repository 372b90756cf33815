"""The command line: each command parses its options, calls one function and prints the result."""

import logging
import sys
from typing import Any

import click

from evclip_ray.cli.cache import cache_group
from evclip_ray.cli.check import check
from evclip_ray.cli.cluster import cluster_group
from evclip_ray.cli.cost import cost
from evclip_ray.cli.data import manifest, shards
from evclip_ray.cli.evaluate import evaluate, import_checkpoint
from evclip_ray.cli.options import exit_interrupted
from evclip_ray.cli.report import report
from evclip_ray.cli.scale import scale
from evclip_ray.cli.shift import shift
from evclip_ray.cli.submit import submit
from evclip_ray.cli.train import train
from evclip_ray.cli.tune import tune
from evclip_ray.version import __version__

_SECTIONS = {
    "Search, train and score": (tune, train, evaluate, import_checkpoint, report, scale),
    "Videos": (manifest, shards, shift),
    "Machine, costs and cache": (check, cost, cache_group),
    "Clusters": (cluster_group, submit),
}


class _Main(click.Group):
    """Group that prints a user's mistake as one line, exit status 1, and lists its commands by section."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            exit_interrupted(context)
        # ConfigError and ArtifactError are ValueErrors: mistakes of the user. Any other exception is a bug
        # and keeps its traceback.
        except (ValueError, OSError) as error:
            if context.params.get("verbose"):
                raise
            raise click.ClickException(str(error)) from None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section of the help text for each group of related commands."""
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                # click would list all commands in one alphabetical table.
                rows = [(command.name or "", command.get_short_help_str(100)) for command in commands]
                formatter.write_dl(rows)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--verbose", is_flag=True, help="Show the log of Ray, and tracebacks of errors.")
@click.pass_context
def main(context: click.Context, verbose: bool) -> None:
    """Find the EV-CLIP prompts that work best on your own videos."""
    context.obj = verbose
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(message)s",
        stream=sys.stderr,
    )


for _commands in _SECTIONS.values():
    for _command in _commands:
        main.add_command(_command)
