"""The command `doctor`."""

import dataclasses
import json
from pathlib import Path

import click

from evclip_ray.api import cache_folder
from evclip_ray.cli.display import console, error_console
from evclip_ray.cli.options import cache_option, example, settings
from evclip_ray.cli.progress import bars, load_torch
from evclip_ray.config import parse_assignments


@click.command(epilog=example("evclip-ray doctor --set backbone.name=ViT-L-14"))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("studies"),
    show_default=True,
    help="Folder of the results, whose disk is checked.",
)
@click.option("--ray/--no-ray", "with_ray", default=True, show_default=True, help="Start and stop Ray.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@settings
@cache_option
@click.pass_context
def doctor(
    context: click.Context,
    out: Path,
    with_ray: bool,
    as_json: bool,
    assignments: tuple[str, ...],
    cache: Path | None,
) -> None:
    """Check this machine: decoder, disks, memory, GPU, weights and Ray. Each problem is printed with its fix.

    The weights are those of the experiment that --set describes, by default EV-CLIP on ViT-B-16. The exit
    status is 1 if a check failed; a warning leaves it at 0.
    """
    from evclip_ray.training.experiment import ExperimentConfig

    # No video is read, but an experiment must name its videos.
    experiment = ExperimentConfig.load({"data": {"manifest": "none"}}, parse_assignments(assignments))
    load_torch()
    from evclip_ray.cluster.doctor import check_machine

    results = []
    with bars(error_console if as_json else None):
        for check in check_machine(
            experiment, cache=cache_folder(cache), out=out.expanduser().resolve(), with_ray=with_ray
        ):
            results.append(check)
            if not as_json:
                fix = f". {check.fix}" if check.fix else ""
                console.print(f"{check.state:<8} {check.name:<22} {check.text}{fix}", soft_wrap=True)
    failed = any(check.state == "failed" for check in results)
    if as_json:
        checks = [dataclasses.asdict(check) for check in results]
        click.echo(json.dumps({"ok": not failed, "checks": checks}, indent=2))
    context.exit(1 if failed else 0)
