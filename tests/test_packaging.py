"""The installed package: built as a wheel and unpacked, as pip does it."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def test_wheel_has_the_command_and_package_data(tmp_path):
    # Built from a copy, because setuptools writes build folders next to setup.py.
    source = tmp_path / "source"
    shutil.copytree(ROOT / "evclip_ray", source / "evclip_ray")
    shutil.copytree(ROOT / "search_spaces", source / "search_spaces")
    for name in ("setup.py", "README.md"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", tmp_path, source], check=True)
    wheel = next(tmp_path.glob("evclip_ray-*.whl"))
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        entry = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "evclip-ray = evclip_ray.cli:main" in archive.read(entry).decode()
        report = ("report.html.j2", "report.css", "charts.js", "layout.js", "tables.js")
        page = {f"evclip_ray/reports/render/page/{name}" for name in report}
        page |= {f"evclip_ray/deploy/server/page/{name}" for name in ("index.html", "app.css", "app.js")}
        weights = {
            f"evclip_ray/world/weights/{path.name}" for path in (ROOT / "evclip_ray/world/weights").iterdir()
        }
        assert any(name.endswith(".safetensors") for name in weights)
        assert page | weights <= {*archive.namelist()}
        archive.extractall(site)
    code = (
        "import evclip_ray; from evclip_ray.tuning.space_files import *;"
        "print(evclip_ray.__file__, find_space('search_spaces/quickstart.yaml'), *shipped_spaces())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    module, quickstart, *spaces = result.stdout.split()
    assert module.startswith(str(site))
    assert quickstart.startswith(str(site))
    assert set(spaces) >= {path.stem for path in (ROOT / "search_spaces").glob("*.yaml")}


# For a later Python, some of the lowest versions have no wheel.
@pytest.mark.skipif(
    "EVCLIP_RAY_OLDEST" not in os.environ or sys.version_info[:2] > (3, 11),
    reason="needs the lowest versions (make oldest) and Python 3.11",
)
def test_lowest_versions_are_those_that_run():
    others = {}
    for text in importlib.metadata.requires("evclip-ray"):
        requirement = Requirement(text)
        lowest = [Version(each.version).release for each in requirement.specifier if each.operator == ">="]
        if lowest and any(
            requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            for extra in ("all", "dev")
        ):
            installed = importlib.metadata.version(requirement.name)
            if Version(installed).release[: len(lowest[0])] != lowest[0]:
                others[text] = installed
    # A dependency of another dependency may need more; its version is then the lowest here too.
    assert others == {}
