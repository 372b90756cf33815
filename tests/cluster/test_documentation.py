"""Commands on the pages exist with their options, and policies are valid JSON and narrow."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from evclip_ray.cli import main

FOLDER = Path(__file__).resolve().parents[2] / "cluster"
PAGES = sorted(FOLDER.glob("*.md"))
PROVIDERS = [page for page in PAGES if page.name != "README.md"]
FILES = [*PAGES, *sorted(FOLDER.glob("*.yaml")), FOLDER / "slurm.sh", FOLDER / "local.sh"]


def blocks(page, language=""):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)


def commands(page):
    """Yield the commands of evclip-ray and Ray in code blocks and in running text."""
    text = page.read_text()
    lines = [line.strip() for block in blocks(page) for line in block.splitlines()]
    lines += re.findall(r"`((?:evclip-ray|ray) [^`]+)`", text)
    for line in lines:
        line = re.sub(r"^#\s+", "", line)
        if re.match(r"(evclip-ray|ray) [a-z]", line):
            yield shlex.split(line)


def parse(group, words, context):
    """Parse as the command line does, without running the command."""
    name, command, rest = group.resolve_command(context, list(words))
    with command.make_context(name, rest, parent=context) as inner:
        if isinstance(command, click.Group) and (left := [*inner._protected_args, *inner.args]):
            parse(command, left, inner)


@pytest.mark.parametrize("page", FILES, ids=lambda path: path.name)
def test_command_on_a_page_exists_with_its_options(page):
    from ray.scripts.scripts import cli as ray

    for program, *words in commands(page):
        group = main if program == "evclip-ray" else ray
        context = group.make_context(program, ["--help"], resilient_parsing=True)
        if len(words) == 1:
            assert group.get_command(context, words[0]), words
            continue  # A sentence mentions the command.
        try:
            parse(group, words, context)
            if words[0] == "submit" and "--" in words:
                parse(main, words[words.index("--") + 1 :], context)
        except click.UsageError as error:
            pytest.fail(f"{program} {shlex.join(words)}: {error.format_message()}")


def test_pages_contain_commands():
    assert sum(1 for page in PAGES for _ in commands(page)) > 40


@pytest.mark.parametrize("page", PROVIDERS, ids=lambda path: path.name)
def test_provider_page_covers_the_life_of_a_cluster(page):
    text = page.read_text()
    for text_part in (
        "evclip-ray cluster check",
        "Costs",
        "What goes wrong",
        "tensorboard",
        "ashboard",
        "not ",
    ):
        assert text_part in text, text_part
    assert re.search("ray down|kubectl delete|scancel", text)
    assert re.search("fetch|rsync-down|--out", text)


@pytest.mark.parametrize("page", [p for p in PROVIDERS if blocks(p, "json")], ids=lambda path: path.name)
def test_policy_is_json_without_wildcards(page):
    for block in blocks(page, "json"):
        policy = json.loads(block)
        granted = policy.get("Actions") or [a for part in policy["Statement"] for a in part["Action"]]
        assert granted
        assert not [action for action in granted if "*" in action]
        for part in policy.get("Statement", []):
            changes = [action for action in part["Action"] if ":Describe" not in action]
            assert not changes or "Condition" in part, changes


def test_every_file_is_on_the_common_page():
    text = (FOLDER / "README.md").read_text()
    for path in FOLDER.iterdir():
        assert path.name == "README.md" or path.name in text, path.name
