"""The example package of docs/examples, installed as a user installs it, in separate processes."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from evclip_ray.config import ConfigError
from evclip_ray.models import methods
from evclip_ray.models.methods import find_method, third_party_methods

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/examples/evclip_ray_lora"

ONE_STEP = """
import torch
from evclip_ray.models.methods import find_method
from evclip_ray.profiling.counted import count_cost
from evclip_ray.testing import CLASSES, load_networks, random_videos, train
from evclip_ray.training.experiment import ExperimentConfig

def test_one_step_of_the_installed_method():
    config = find_method("clip_lora").load({"name": "clip_lora"})
    method = config.build(load_networks(), class_names=CLASSES, num_frames=8, image_size=64)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    train(method, random_videos(4), steps=1, lr=1e-2)
    moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.endswith(".b")}

    settings = {"method.name": "clip_lora", "backbone.name": "debug"}
    experiment = ExperimentConfig.load({"data": {"manifest": "none"}}, settings)
    plain = ExperimentConfig.load({"data": {"manifest": "none"}}, {**settings, "method.name": "zero_shot"})
    lora, zero_shot = (count_cost(one, CLASSES).inference_gmac for one in (experiment, plain))
    assert lora["lora"] > 0
    assert set(lora) == {"image_tower", "lora", "head"}, lora
    # The last projection is outside of the tower's modules, and still belongs to the tower.
    assert lora["image_tower"] == zero_shot["image_tower"], (lora, zero_shot)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a process that has the example package installed."""
    folder = tmp_path_factory.mktemp("third_party")
    # pip writes build files next to the sources.
    source = shutil.copytree(EXAMPLE, folder / "source")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    install += ["--no-index", "--target", str(folder / "installed"), str(source)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "installed"), str(ROOT)])}


def test_installed_method_trains_and_passes_the_suite(environment: dict[str, str], tmp_path: Path) -> None:
    # In one process, because its imports take longer than the tests.
    files = [str(EXAMPLE / "test_evclip_ray_lora.py"), str(tmp_path / "test_one_step.py")]
    Path(files[1]).write_text(ONE_STEP)
    options = ("-c", str(ROOT / "pyproject.toml"), "-q", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *options, *files]
    result = subprocess.run(
        command, env=environment, cwd=EXAMPLE, capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch):
    """Return a function that registers entry points (name -> value) for the time of a test."""

    def set_points(**points: str) -> None:
        group = methods.ENTRY_POINT_GROUP
        listed = [EntryPoint(name, value, group) for name, value in points.items()]
        monkeypatch.setattr(methods, "entry_points", lambda group: listed)
        third_party_methods.cache_clear()

    yield set_points
    third_party_methods.cache_clear()


def test_builtin_name_is_refused_in_one_line(register) -> None:
    register(coop="elsewhere:Config")
    with pytest.raises(ConfigError, match=r"method 'coop' of .*evclip-ray itself has a method") as error:
        find_method("nothing")
    assert "\n" not in str(error.value)
    assert find_method("coop").__name__ == "CoOpConfig"


def test_unknown_name_offers_both_kinds(register) -> None:
    register(clip_lora="elsewhere:Config")
    with pytest.raises(ConfigError, match="'clip_lora'"):
        find_method("clip_lara")
    with pytest.raises(ConfigError, match=r"'ev_clip'"):
        find_method("ev_clop")


def test_broken_entry_point_is_one_line(register) -> None:
    register(broken="no_such_module:Config", other="json:loads")
    with pytest.raises(ConfigError, match=r"'broken'.*'no_such_module:Config' cannot be imported") as error:
        find_method("broken")
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="must be a subclass of MethodConfig"):
        find_method("other")
