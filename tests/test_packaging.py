import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_an_installed_wheel_brings_the_command_and_the_search_spaces(tmp_path):
    """Built from a copy, so that the checkout stays clean; unpacked, as pip would."""
    source = tmp_path / "source"
    listed = ["setup.py", "README.md", "evclip_ray", "search_spaces"]
    source.mkdir()
    for name in listed:
        subprocess.run(["cp", "-r", str(ROOT / name), str(source / name)], check=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            tmp_path,
            source,
        ],
        check=True,
    )
    wheel = next(tmp_path.glob("evclip_ray-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        entry = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "evclip-ray = evclip_ray.cli:main" in archive.read(entry).decode()
        assert {f"evclip_ray/reports/render/page/report.{kind}" for kind in ("html.j2", "css", "js")} <= {
            *archive.namelist()
        }
        archive.extractall(tmp_path / "site")
    code = (
        "import evclip_ray; from evclip_ray.tuning.search_space import *;"
        "print(evclip_ray.__file__, find_space('search_spaces/quickstart.yaml'), *shipped_spaces())"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert found[0].startswith(str(tmp_path / "site"))
    assert found[1].startswith(str(tmp_path / "site"))
    assert set(found[2:]) >= {path.stem for path in (ROOT / "search_spaces").glob("*.yaml")}
