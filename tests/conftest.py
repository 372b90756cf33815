from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of fixtures beside the repository; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[1] / ".." / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder `shared` beside the repository (reference fixtures)")
    return folder.resolve()
