"""The command line: each command parses, calls one function and prints."""

import logging
import sys
from typing import Any

import click

from evclip_ray import __version__
from evclip_ray.cli.cache import cache_group
from evclip_ray.cli.check import check
from evclip_ray.cli.cluster import cluster_group
from evclip_ray.cli.cost import cost
from evclip_ray.cli.data import manifest, shards
from evclip_ray.cli.display import console
from evclip_ray.cli.evaluate import evaluate, import_checkpoint
from evclip_ray.cli.options import INTERRUPTED, this_command
from evclip_ray.cli.report import report
from evclip_ray.cli.scale import scale
from evclip_ray.cli.shift import shift
from evclip_ray.cli.submit import submit
from evclip_ray.cli.train import train
from evclip_ray.cli.tune import tune


class OneLineErrors(click.Group):
    """Shows the user's mistakes as one line, exit status 1; `--verbose` gives the traceback."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            console.print("\ninterrupted; everything finished is kept. Go on with:")
            console.print(f"  {this_command()}", soft_wrap=True, markup=False)
            context.exit(INTERRUPTED)
        except (ValueError, OSError) as error:
            if context.params.get("verbose"):
                raise
            raise click.ClickException(str(error)) from None


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--verbose", is_flag=True, help="Show Ray's own log, and tracebacks.")
@click.pass_context
def main(context: click.Context, verbose: bool) -> None:
    """Find the EV-CLIP prompts that work best on your own videos."""
    context.obj = verbose
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(message)s",
        stream=sys.stderr,
    )


for _command in (
    check,
    manifest,
    shards,
    train,
    tune,
    evaluate,
    import_checkpoint,
    shift,
    report,
    cost,
    scale,
    cache_group,
    cluster_group,
    submit,
):
    main.add_command(_command)
