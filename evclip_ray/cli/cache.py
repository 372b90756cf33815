"""The commands `cache ls`, `cache rm` and `cache verify`."""

from pathlib import Path

import click

from evclip_ray.api import cache_folder
from evclip_ray.cli.options import cache_option, example
from evclip_ray.formatting import binary_size


@click.group("cache")
def cache_group() -> None:
    """List, remove and verify cached features of frozen networks, which runs with data.bank share."""


@cache_group.command("ls", epilog=example("evclip-ray cache ls"))
@cache_option
def cache_ls(cache: Path | None) -> None:
    """List the cached features: key, network and size."""
    from evclip_ray.features.cache_admin import list_entries

    for entry in list_entries(cache_folder(cache) / "features"):
        click.echo(
            f"{entry.folder.name}  {entry.kind:<14} {entry.network} ({entry.origin}, {entry.precision})  "
            f"{entry.views} views, {entry.files} files, {binary_size(entry.num_bytes)}"
        )


@cache_group.command("rm", epilog=example("evclip-ray cache rm 3f0c"))
@click.argument("key")
@cache_option
def cache_rm(key: str, cache: Path | None) -> None:
    """Remove the cached features with this KEY, or the beginning of one, as `cache ls` lists them."""
    from evclip_ray.features.cache_admin import remove_entry

    entry = remove_entry(cache_folder(cache) / "features", key)
    click.echo(f"removed {entry.folder.name}: {entry.kind} of {entry.network}")


@cache_group.command("verify", epilog=example("evclip-ray cache verify"))
@cache_option
@click.pass_context
def cache_verify(context: click.Context, cache: Path | None) -> None:
    """Compare every file with its digest. The exit status is 1 if any is damaged.

    The next study that needs a damaged file writes it again.
    """
    from evclip_ray.features.cache_admin import damaged_files, list_entries

    cached = list(list_entries(cache_folder(cache) / "features"))
    damaged = [path for entry in cached for path in damaged_files(entry)]
    for path in damaged:
        click.echo(f"damaged  {path}")
    click.echo(f"{sum(entry.files for entry in cached)} files, {len(damaged)} damaged")
    if damaged:
        context.exit(1)
