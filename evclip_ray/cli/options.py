"""What the commands share: options, where things are, what to type next."""

import functools
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from evclip_ray.cli.display import console
from evclip_ray.config import ConfigError

INTERRUPTED = 130


def example(text: str) -> str:
    """An example below the help of a command."""
    return f"\b\nExample:\n  {text}"


def settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--set PATH=VALUE`, as `assignments`."""
    return click.option(
        "--set", "assignments", multiple=True, metavar="PATH=VALUE", help="Override a setting; repeatable."
    )(command)


def cache_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--cache`."""
    return click.option(
        "--cache", type=click.Path(path_type=Path), envvar="EVCLIP_RAY_CACHE", default=None,
        help="Folder of decoded videos, shared by all runs (default: ~/.cache/evclip-ray).",
    )(command)  # fmt: skip


def address_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--address`; from outside a cluster the command is sent there as a job instead of run here.

    Ray Data and Ray Train do not run through Ray Client: its address only tells where jobs are taken.
    """

    @functools.wraps(command)
    def run_or_submit(*arguments: Any, **options: Any) -> Any:
        address = options["address"] or ""
        if address.startswith("ray://"):
            from evclip_ray.cluster.connection import dashboard_of

            address = dashboard_of(address)
        if address.startswith(("http://", "https://")):
            from evclip_ray.cli.submit import run_as_job

            context = click.get_current_context()
            return run_as_job(context, without_address(sys.argv[1:]), address=address)
        return command(*arguments, **options)

    return click.option(
        "--address",
        default=None,
        help="A running Ray cluster: auto or HOST:6379 on its own machines; from outside http://HOST:8265 "
        "or ray://HOST:10001, which send the command as a job (default: no cluster, this machine).",
    )(run_or_submit)


def without_address(arguments: Sequence[str]) -> list[str]:
    """A command line less its `--address`."""
    kept: list[str] = []
    for place, argument in enumerate(arguments):
        follows = place > 0 and arguments[place - 1] == "--address"
        if argument != "--address" and not argument.startswith("--address=") and not follows:
            kept.append(argument)
    return kept


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--data` and `--root`."""
    command = click.option(
        "--data", default=None, help="Manifest (CSV, Parquet) or a folder of class folders."
    )(command)
    return click.option("--root", default=None, help="Folder that the manifest's paths are relative to.")(
        command
    )


def sources(data: str | None, root: str | None) -> dict[str, Any]:
    """The overrides that `--data` and `--root` stand for."""
    found: dict[str, Any] = {}
    if data is not None:
        found |= {"data.manifest": _absolute(data), "data.synthetic": None}
    if root is not None:
        found["data.root"] = _absolute(root)
    return found


def _absolute(place: str) -> str:
    """The same place from any folder, so that best.yaml works from there; a URI stays as it is."""
    return place if "://" in place else str(Path(place).expanduser().resolve())


def one_each(option: str, values: Sequence[Any], count: int) -> list[Any]:
    """A value for each of `count` sets: the one given, or as many as there are sets."""
    if len(values) not in (1, count):
        raise ConfigError(f"{option} must be given once, or once for each of {count} sets; got {len(values)}")
    return list(values) if len(values) == count else list(values) * count


def cache_folder(cache: Path | None) -> Path:
    """The folder of everything shared between runs: `--cache`, or the user's own."""
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return (cache or base / "evclip-ray").expanduser().resolve()


def warn_random(weights: dict[str, str]) -> None:
    """Say loudly which of `weights`, part to origin, are random."""
    random = [part for part, origin in weights.items() if origin == "random"]
    if random:
        console.print(
            f"RANDOM WEIGHTS in {' and '.join(random)}: these numbers say nothing of a trained CLIP"
        )


def this_command() -> str:
    """What was typed, to be typed again."""
    return shlex.join(["evclip-ray", *sys.argv[1:]])
