"""The commands `cache ls`, `cache rm`, `cache prune` and `cache verify`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evclip_ray.api import cache_folder
from evclip_ray.cli.options import Duration, cache_option, example
from evclip_ray.config import ConfigError
from evclip_ray.formatting import age, binary_size, counted, printable

if TYPE_CHECKING:
    from evclip_ray.housekeeping import CacheEntry

_STUDIES = (Path("studies"), Path("ladders"), Path("runs"))


def _studies_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--studies",
        "folders",
        multiple=True,
        type=click.Path(path_type=Path),
        default=_STUDIES,
        show_default="studies, ladders, runs",
        help="Folder in which studies are looked for, whose use of the cache is noted. Repeatable.",
    )(command)


@click.group("cache")
def cache_group() -> None:
    """List and remove decoded videos, features of frozen networks and what else the cache holds.

    Decoded videos, features and small worlds are made again when a command needs them.
    """


@cache_group.command("ls", epilog=example("evclip-ray cache ls --studies /data/studies"))
@cache_option
@_studies_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def cache_ls(cache: Path | None, folders: tuple[Path, ...], as_json: bool) -> None:
    """List the content of the cache: key, size, age and the studies that use it."""
    entries = _entries(cache, folders)
    if as_json:
        click.echo(json.dumps([entry.record() for entry in entries], indent=1))
        return
    for entry in entries:
        click.echo(_line(entry))
    click.echo(f"{_total(entries)} in {printable(str(cache_folder(cache)))}")


@cache_group.command("rm", epilog=example("evclip-ray cache rm 3f0c"))
@click.argument("key")
@cache_option
def cache_rm(key: str, cache: Path | None) -> None:
    """Remove the entry with this KEY, or the beginning of one, as `cache ls` lists them."""
    from evclip_ray.housekeeping import find_entry

    _remove([find_entry(_entries(cache, ()), key)])


@cache_group.command("prune", epilog=example("evclip-ray cache prune --older-than 30d --unused"))
@click.option("--older-than", type=Duration(), default=None, help="Least age since the last change.")
@click.option("--unused", is_flag=True, help="Keep what a study found below --studies uses.")
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@cache_option
@_studies_option
def cache_prune(
    older_than: float | None,
    unused: bool,
    dry_run: bool,
    yes: bool,
    cache: Path | None,
    folders: tuple[Path, ...],
) -> None:
    """Remove the entries that can be made again and meet all given conditions, after a question.

    The cache does not know runs of `train` and evaluations, whose decoded videos count as unused. They are
    decoded again when they are needed.
    """
    from evclip_ray.housekeeping import to_prune

    if older_than is None and not unused:
        raise ConfigError("cache prune: needs a condition: --older-than 30d, --unused, or both")
    entries = to_prune(_entries(cache, folders), older_than_seconds=older_than, unused=unused)
    for entry in entries:
        click.echo(_line(entry))
    click.echo(f"{_total(entries)} {'would be' if dry_run else 'to be'} removed")
    if entries and not dry_run and (yes or click.confirm("Remove them?")):
        _remove(entries)


@cache_group.command("verify", epilog=example("evclip-ray cache verify"))
@cache_option
@click.pass_context
def cache_verify(context: click.Context, cache: Path | None) -> None:
    """Compare every file of features with its digest. The exit status is 1 if any is damaged.

    The next study that needs a damaged file writes it again. `shards` checks decoded videos itself.
    """
    from evclip_ray.features.cache_admin import damaged_files, list_entries

    cached = list(list_entries(cache_folder(cache) / "features"))
    damaged = [path for entry in cached for path in damaged_files(entry)]
    for path in damaged:
        click.echo(f"damaged  {path}")
    click.echo(f"{counted(sum(entry.files for entry in cached), 'file')}, {len(damaged)} damaged")
    if damaged:
        context.exit(1)


def _entries(cache: Path | None, folders: tuple[Path, ...]) -> "list[CacheEntry]":
    from evclip_ray.housekeeping import find_studies, list_cache

    return list_cache(cache_folder(cache), find_studies(folders))


def _line(entry: "CacheEntry") -> str:
    used = f"  used by {', '.join(study.name for study in entry.studies)}" if entry.studies else ""
    size = binary_size(entry.num_bytes)
    return printable(
        f"{entry.key}  {size:>9}  {age(entry.written):>6} old  {entry.kind}: {entry.content}{used}"
    )


def _total(entries: "list[CacheEntry]") -> str:
    number = f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
    return f"{number}, {binary_size(sum(entry.num_bytes for entry in entries))}"


def _remove(entries: "list[CacheEntry]") -> None:
    from evclip_ray.housekeeping import remove

    for entry in entries:
        if remove(entry):
            click.echo(printable(f"removed {entry.key}: {entry.kind}, {entry.content}"))
        else:
            click.echo(f"kept {entry.key}: a process is writing it")
