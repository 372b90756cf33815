"""Look after what is kept of frozen networks."""

from pathlib import Path

import click

from evclip_ray.cli.options import cache_folder, cache_option, example


@click.group("cache")
def cache_group() -> None:
    """Look after the frozen networks' features that runs with a bank of views (data.bank) share."""


@cache_group.command("ls", epilog=example("evclip-ray cache ls"))
@cache_option
def cache_ls(cache: Path | None) -> None:
    """List what is kept: its key, of which network, how large."""
    from evclip_ray.features.cache_admin import entries

    for entry in entries(cache_folder(cache) / "features"):
        click.echo(
            f"{entry.folder.name}  {entry.kind:<14} {entry.network} ({entry.origin}, {entry.precision})  "
            f"{entry.views} views, {entry.files} files, {entry.num_bytes / 2**20:.1f} MB"
        )


@cache_group.command("rm", epilog=example("evclip-ray cache rm 3f0c"))
@click.argument("key")
@cache_option
def cache_rm(key: str, cache: Path | None) -> None:
    """Remove the features whose KEY, or its beginning, `cache ls` shows."""
    from evclip_ray.features.cache_admin import remove

    entry = remove(cache_folder(cache) / "features", key)
    click.echo(f"removed {entry.folder.name}: {entry.kind} of {entry.network}")


@cache_group.command("verify", epilog=example("evclip-ray cache verify"))
@cache_option
@click.pass_context
def cache_verify(context: click.Context, cache: Path | None) -> None:
    """Compare every file with its digest. Exit status 1 if any is damaged; a study makes it again."""
    from evclip_ray.features.cache_admin import damaged, entries

    kept = list(entries(cache_folder(cache) / "features"))
    broken = [path for entry in kept for path in damaged(entry)]
    for path in broken:
        click.echo(f"damaged  {path}")
    click.echo(f"{sum(entry.files for entry in kept)} files, {len(broken)} damaged")
    if broken:
        context.exit(1)
