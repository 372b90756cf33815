"""App of the server with a recogniser that only reads the file, for tests without Ray and networks."""

import asyncio

import numpy as np
import pytest

from evclip_ray.deploy.predictions import ClassScore, Prediction, WindowPrediction
from evclip_ray.deploy.server.app import create_app
from evclip_ray.deploy.server.limits import ServerSettings
from evclip_ray.deploy.server.metrics import Metrics
from evclip_ray.deploy.server.service import Answer
from evclip_ray.deploy.server.uploads import UploadFolder


class FakeService:
    """Service whose answer is the content of the file. `gate` holds its requests back."""

    def __init__(self):
        self.received, self.options, self.error = [], None, None
        self.gate = None

    async def start(self):
        pass

    async def close(self):
        pass

    def info(self):
        return {"method": "fake", "backbone": "none", "classes": ["run"], "limits": {}}

    async def recognize(self, path, name, options):
        self.received.append(path.read_bytes())
        self.options = options
        if self.error is not None:
            raise self.error
        if self.gate is not None:
            await self.gate.wait()
        window = WindowPrediction(0.0, 1.0, (ClassScore("run", 0.75),), np.zeros(1, np.float32))
        return Answer(Prediction(name, 1.0, 25, (window,), window), (b"JPEG",) if options.masks else ())


@pytest.fixture
def service():
    return FakeService()


@pytest.fixture
def make_app(service, tmp_path):
    """Return a function that makes the app. Its folder of uploads is `tmp_path / "uploads"`."""
    base = tmp_path / "uploads"
    base.mkdir()
    folders = []

    def make(*, token=None, limits=None, **settings):
        folders.append(UploadFolder(base))
        checked = ServerSettings.load({"checkpoint": "best", "limits": limits or {}, **settings})
        return create_app(service, checked, folders[-1], Metrics(), token=token)

    yield make
    # No request leaves a file, whatever happened to it.
    left = [path for folder in folders for path in folder.path.iterdir()]
    for folder in folders:
        folder.close()
    assert not left


@pytest.fixture
def run():
    """Return a function that runs a coroutine."""
    return asyncio.run
