import os
from pathlib import Path

import pytest

# Read when ray is first imported: no usage report, and no token written to the home folder.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of fixtures beside the repository; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[1] / ".." / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder `shared` beside the repository (reference fixtures)")
    return folder.resolve()


@pytest.fixture(scope="module")
def local_ray():
    """A Ray of this machine's own, two CPUs, for the tests of one module."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200_000_000,
        log_to_driver=False,
        logging_level="WARNING",
    )
    yield ray
    ray.shutdown()
