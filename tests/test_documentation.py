"""README and docs: size, links, commands, and a page per method. No module of the package is under test."""

import importlib
import re
import shlex
import zlib
from pathlib import Path

import click
import pytest

from evclip_ray.cli import main
from evclip_ray.models.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts),
]


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands(page: Path) -> list[list[str]]:
    """Return the words of every evclip-ray command in code blocks and in code spans."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`(evclip-ray [^`\n]+)`", text)
    return [
        shlex.split(line, comments=True)[1:] for line in lines if re.match(r"evclip-ray [a-z]", line.strip())
    ]


def parse(group: click.Group, words: list[str], parent: click.Context) -> None:
    """Parse a command line without running it."""
    name, command, rest = group.resolve_command(parent, list(words))
    assert command is not None, name
    with command.make_context(name, rest, parent=parent) as context:
        if isinstance(command, click.Group) and (inner := [*context._protected_args, *context.args]):
            parse(command, inner, context)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_of_a_page_parse(page: Path) -> None:
    context = main.make_context("evclip-ray", ["--help"], resilient_parsing=True)
    for words in commands(page):
        if not any(word.startswith("-") for word in words) and len(words) < 3:
            # A sentence may name a command without its arguments: `evclip-ray report`.
            command: click.Command | None = main.get_command(context, words[0])
            if isinstance(command, click.Group) and len(words) > 1:
                command = command.get_command(context, words[1])
            assert command is not None, words
            continue
        try:
            parse(main, words, context)
        except click.UsageError as error:
            if not isinstance(error, click.MissingParameter):
                pytest.fail(f"evclip-ray {shlex.join(words)}: {error.format_message()}")


def test_pages_show_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 40


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_local_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, _ = target.partition("#")
        if path and "://" not in target:
            assert (page.parent / path).exists(), target


def test_readme_is_short() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= 1200
    assert len(text.splitlines()) <= 120


def test_readme_has_the_two_commands() -> None:
    text = README.read_text(encoding="utf-8")
    targets = re.findall(r"^(\w+)(?: \w+)*:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for name in ("quickstart", "test"):
        assert f"make {name} " in text
        assert name in targets


@pytest.mark.parametrize("name", METHODS)
def test_method_has_a_page(name: str) -> None:
    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}\n")
    assert "## Licence of weights" in page
    index = (ROOT / "docs" / "methods" / "index.md").read_text(encoding="utf-8")
    assert f"[`{name}`]({name}.md)" in index


def test_inventories_match_their_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    make_inventories = importlib.import_module("make_inventories")
    for name, site in make_inventories.SITES.items():
        written = (ROOT / "docs" / "inventories" / f"{name}.inv").read_bytes()
        # Compressed bytes depend on the version of zlib, so the texts are compared.
        assert written.partition(b"zlib.\n")[0] == make_inventories.inventory(site).partition(b"zlib.\n")[0]
        texts = [
            zlib.decompress(data.partition(b"zlib.\n")[2])
            for data in (written, make_inventories.inventory(site))
        ]
        assert texts[0] == texts[1], name


def test_page_of_settings_matches_the_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    page = importlib.import_module("make_settings").page()
    assert (ROOT / "docs" / "settings.md").read_text() == page, "run docs/make_settings.py"


def test_pictures_are_small() -> None:
    for path in (ROOT / "docs" / "images").iterdir():
        assert path.stat().st_size < 200_000, path.name
