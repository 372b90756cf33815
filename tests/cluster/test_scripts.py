"""Linters of the shell scripts and the Dockerfile, and what goes into the images."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "cluster"
SCRIPTS = sorted(FOLDER.glob("*.sh"))


def lint(tool, *arguments):
    command = shutil.which(tool) or shutil.which(tool, path=Path(sys.executable).parent)
    if command is None:
        pytest.skip(f"needs the command {tool} (pip install 'evclip-ray[dev]')")
    return subprocess.run([command, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    result = lint("shellcheck", path)
    assert result.returncode == 0, result.stdout


def test_hadolint_finds_nothing():
    result = lint("hadolint", FOLDER / "Dockerfile")
    assert result.returncode == 0, result.stdout


def test_both_images_use_the_same_package():
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("FROM")] == [
        "FROM python:${PYTHON}-slim-bookworm AS base",
        "FROM base AS package",
        "FROM base AS cpu",
        "FROM base AS cuda",
    ]
    assert lines.count("COPY --from=package /tmp/wheels /tmp/wheels") == 2


def test_image_contains_only_the_package():
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    included = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copied = re.findall(r"^COPY --chown=\S+ (.+) \S+$", (FOLDER / "Dockerfile").read_text(), re.M)
    assert included == {name for names in copied for name in names.split()}
