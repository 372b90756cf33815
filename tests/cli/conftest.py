import pytest
import yaml
from click.testing import CliRunner

from evclip_ray.cli import main


@pytest.fixture(scope="module", autouse=True)
def _decode_on_ray(decode_on_ray):
    """Use Ray for the decoding in all tests of this folder."""


@pytest.fixture
def call(tiny_cache):
    """Run a command in this process; returns click's result."""

    def run(*arguments):
        environment = {"EVCLIP_RAY_CACHE": str(tiny_cache)}
        return CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)

    return run


@pytest.fixture
def space(tmp_path, debug_settings, tiny_manifest):
    """Write a search space for the tiny videos and return its path."""
    path = tmp_path / "tiny.yaml"
    content = {
        "fixed": {**debug_settings, "data.manifest": str(tiny_manifest)},
        "search": {"optim.lr": {"loguniform": [1e-3, 1e-2]}},
        "study": {"trials": 2, "memory_gb": 0.5, "scheduler": "none"},
    }
    path.write_text(yaml.safe_dump(content))
    return path
