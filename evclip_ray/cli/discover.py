"""The commands `settings` and `spaces`, which show what can be set and searched."""

import json
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evclip_ray.cli.options import example
from evclip_ray.config import ConfigError
from evclip_ray.formatting import printable, shell

if TYPE_CHECKING:
    from evclip_ray.settings import Setting


@click.command("settings", epilog=example("evclip-ray settings method.mask --method ev_clip"))
@click.argument("prefix", default="")
@click.option("--method", default=None, help="Leave out the settings of other methods.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def settings_command(prefix: str, method: str | None, as_json: bool) -> None:
    """List the settings that start with PREFIX: type, range, default and description.

    Each one can be fixed with --set PATH=VALUE or in the section `fixed` of a search space, and searched in
    its section `search`. Those below `study` belong to the search itself.
    """
    from evclip_ray.models.methods import find_method
    from evclip_ray.settings import list_settings

    found = list_settings(prefix)
    if method is not None:
        find_method(method)
        found = [one for one in found if not one.methods or method in one.methods]
        if not found:
            raise ConfigError(f"settings: method {method!r} has none that starts with {prefix!r}")
    if as_json:
        click.echo(json.dumps([one.record() for one in found], indent=1, ensure_ascii=False))
        return
    width = max(shutil.get_terminal_size().columns, 60)
    click.echo("\n\n".join(_describe(one, width) for one in found))


def _describe(setting: "Setting", width: int) -> str:
    only = f"  [{', '.join(setting.methods)}]" if setting.methods else ""
    head = f"{setting.path}  (default: {setting.default}){only}"
    lines = [textwrap.fill(text, width - 4) for text in (setting.kind, setting.description) if text]
    return f"{head}\n" + textwrap.indent("\n".join(lines), "    ")


@click.group("spaces")
def spaces_group() -> None:
    """List, show and copy the shipped search spaces."""


@spaces_group.command("ls", epilog=example("evclip-ray spaces ls"))
def spaces_ls() -> None:
    """List the shipped search spaces, each with the first sentence of its file."""
    from evclip_ray.tuning.space_files import shipped_spaces

    spaces = shipped_spaces()
    width = max(map(len, spaces))
    for name, path in spaces.items():
        click.echo(f"{name:<{width}}  {_first_sentence(path)}")


@spaces_group.command("show", epilog=example("evclip-ray spaces show ev_clip"))
@click.argument("name")
def spaces_show(name: str) -> None:
    """Print the file of a shipped search space NAME."""
    click.echo(_shipped(name).read_text(encoding="utf-8"), nl=False)


@spaces_group.command("cp", epilog=example("evclip-ray spaces cp ev_clip mine.yaml"))
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace an existing FILE.")
def spaces_cp(name: str, file: Path, force: bool) -> None:
    """Copy a shipped search space NAME to FILE, to be edited there."""
    source = _shipped(name)
    target = file / source.name if file.is_dir() else file
    if target.exists() and not force:
        raise ConfigError(f"{target}: exists already. Give another name, or --force to replace it.")
    shutil.copyfile(source, target)
    click.echo(
        f"{printable(str(target))}\n"
        f"check it:  {shell('evclip-ray', 'tune', target, '--data', 'videos.csv', '--dry-run')}"
    )


def _shipped(name: str) -> Path:
    from evclip_ray.config import nearest
    from evclip_ray.tuning.space_files import shipped_spaces

    spaces = shipped_spaces()
    if name not in spaces:
        raise ConfigError(f"search space {name!r} is not shipped; {nearest(name, list(spaces))}")
    return spaces[name]


def _first_sentence(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment).partition(". ")[0].rstrip(".")
