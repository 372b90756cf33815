"""Fixture of the tests of importers."""

import pytest


@pytest.fixture
def write(tmp_path):
    """Return a function that writes annotation files and empty videos, and returns the folder of videos."""

    def write(lists=None, videos=()):
        for name, text in (lists or {}).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        for name in videos:
            path = tmp_path / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "videos"

    return write
