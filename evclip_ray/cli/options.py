"""Options that several commands share, and messages that name the next command."""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from evclip_ray.api import source_overrides
from evclip_ray.cli.display import console
from evclip_ray.config import ConfigError, parse_assignments
from evclip_ray.formatting import counted
from evclip_ray.termination import exit_status

# `data.manifest.columns.CHOSEN`, whose import would slow `--help` down.
_COLUMNS = ("path", "label", "split", "group")
_META, _NAMES_META = "evclip_ray.columns", "evclip_ray.class_names"
_UNIT_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def example(text: str) -> str:
    """Return an example to print below the help of a command."""
    # \b keeps click from joining the lines.
    return f"\b\nExample:\n  {text}"


def settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--set PATH=VALUE` to a command, as its parameter `assignments`."""
    return click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="PATH=VALUE",
        help="Override a setting by its dotted path, such as optim.lr=3e-4. Repeatable.",
    )(command)


def cache_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--cache` to a command."""
    return click.option(
        "--cache",
        type=click.Path(path_type=Path),
        envvar="EVCLIP_RAY_CACHE",
        default=None,
        help="Folder of decoded videos and cached features, shared by all runs. "
        "Default: $EVCLIP_RAY_CACHE or ~/.cache/evclip-ray.",
    )(command)


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--data`, `--root`, `--columns` and `--class-names` to a command.

    `overrides_of` reads the last two itself.
    """
    data = click.option(
        "--data",
        default=None,
        help="Manifest (CSV, TSV, text or Parquet), or a folder with one folder of videos per class.",
    )
    root = click.option(
        "--root", default=None, help="Folder or URI that the paths in the manifest are relative to."
    )
    return data(root(columns_option(class_names_option(command))))


def columns_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--columns` to a command, whose values are those of `chosen_columns`."""
    return click.option(
        "--columns",
        multiple=True,
        metavar="COLUMN=NAME",
        expose_value=False,
        callback=_note_columns,
        help="Name of a column in the manifest, if it is not a usual one: label=target. Also of path, split "
        "and group. Repeatable.",
    )(command)


def class_names_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--class-names` to a command, whose value is that of `chosen_class_names`."""
    return click.option(
        "--class-names",
        type=click.Path(path_type=Path),
        default=None,
        metavar="FILE",
        expose_value=False,
        callback=_note_class_names,
        help="File with the names of labels that are ids (0, 1, 2, ...): CSV with id,name, JSON, or text.",
    )(command)


def _note_class_names(context: click.Context, _option: click.Parameter, file: Path | None) -> None:
    context.meta[_NAMES_META] = None if file is None else file.expanduser().absolute()


def chosen_class_names() -> Path | None:
    """Return the file that `--class-names` of the running command names, None without one."""
    context = click.get_current_context(silent=True)
    return context.meta.get(_NAMES_META) if context else None


def _note_columns(context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> None:
    names = dict(value.partition("=")[::2] for value in values)
    for column, name in names.items():
        if column not in _COLUMNS or not name:
            given = f"{column}={name}"
            raise ConfigError(
                f"--columns {given}: must be COLUMN=NAME, where COLUMN is {', '.join(_COLUMNS[:-1])} or"
                f" {_COLUMNS[-1]}"
            )
    context.meta[_META] = names


def chosen_columns() -> dict[str, str]:
    """Return column -> name in the manifest, as `--columns` of the running command gives them."""
    context = click.get_current_context(silent=True)
    return dict(context.meta.get(_META, {})) if context else {}


def overrides_of(data: str | None, root: str | None, assignments: tuple[str, ...]) -> dict[str, Any]:
    """Return the overrides that `--data`, `--root`, `--columns`, `--class-names` and `--set` stand for."""
    columns = {f"data.{column}_column": name for column, name in chosen_columns().items()}
    file = chosen_class_names()
    names = {} if file is None else {"data.class_names": str(file)}
    return {**source_overrides(data, root), **columns, **names, **parse_assignments(assignments)}


def one_per_set(option: str, values: Sequence[Any], count: int) -> list[Any]:
    """Return one value for each of `count` sets, repeating a single value.

    Raises:
        ConfigError: The number of values is neither 1 nor `count`.
    """
    if len(values) not in (1, count):
        raise ConfigError(
            f"{option} must be given once, or once for each of {counted(count, 'set')}; got {len(values)}"
        )
    return list(values) if len(values) == count else list(values) * count


class Duration(click.ParamType[float]):
    """Parameter of days, hours, minutes and seconds in this order, `2h30m`, converted to seconds."""

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, or fail with a usage error."""
        if isinstance(value, float):
            return value
        pattern = "".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in _UNIT_SECONDS)
        match = re.fullmatch(pattern, value.strip().lower())
        amounts = [float(amount or 0) for amount in match.groups()] if match else []
        # An empty text matches the pattern too and gives 0 seconds, which is refused below.
        seconds = sum(amount * size for amount, size in zip(amounts, _UNIT_SECONDS.values(), strict=False))
        if seconds <= 0:
            self.fail(f"must be a duration such as 90m, 2h30m or 1d, got {value!r}", param, ctx)
        return seconds


def print_resume() -> None:
    """Print the command that resumes the work: the one that was typed."""
    console.print(f"  {resume_command()}", soft_wrap=True, markup=False)


def resume_command() -> str:
    """Return the command that was typed, quoted for a shell."""
    return shlex.join(["evclip-ray", *sys.argv[1:]])


def exit_interrupted(context: click.Context) -> NoReturn:
    """Print how to resume after Ctrl-C or SIGTERM and exit."""
    console.print("\nInterrupted. Finished work is on disk. Resume with:")
    print_resume()
    context.exit(exit_status())
