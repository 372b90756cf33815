"""The server on Ray Serve."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from asgi_client import FORM, form

from evclip_ray.deploy.recognizer import Recognizer
from evclip_ray.deploy.server.uploads import base_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TOKEN = "a-secret-token"


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


class Command:
    """`evclip-ray serve` as a process, started again if the machine is too busy for Ray's start."""

    def __init__(self, tmp_path, *arguments):
        self.log = tmp_path / "log"
        self._command = [sys.executable, "-m", "evclip_ray", "serve", *map(str, arguments)]
        # Short, because Ray's sockets are below it.
        self.environment = {**os.environ, "EVCLIP_RAY_TOKEN": TOKEN}
        self._start()

    def _start(self):
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )

    def wait_for(self, text, attempts=3):
        while text not in self.log.read_text():
            if self.process.poll() is not None:
                if attempts == 1 or "timed out during startup" not in self.log.read_text():
                    pytest.fail(self.log.read_text())
                self._start()
                attempts -= 1
            time.sleep(0.2)

    def end(self, number=signal.SIGTERM):
        # To every process of the group, as a terminal and many service managers do.
        os.killpg(self.process.pid, number)
        status = self.process.wait(60)
        assert self.log.read_text().rstrip().endswith("stopped")
        return status


@pytest.fixture
def start(tmp_path):
    commands = []

    def run(*arguments):
        commands.append(Command(tmp_path, *arguments))
        return commands[-1]

    yield run
    for command in commands:
        if command.process.poll() is None:
            command.process.send_signal(signal.SIGTERM)
            command.process.wait(60)


def request(port, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        given = {"Authorization": f"Bearer {TOKEN}", **({"Content-Type": FORM} if body else {}), **headers}
        connection.request(method, path, body, given)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def files():
    return [path for path in base_folder().rglob("*") if path.is_file()]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_command_answers_as_predict_and_ends_cleanly(start, checkpoint, videos, port, number, status):
    command = start(checkpoint, "--port", port, "--cpus", 0.5, "--limit", "upload_megabytes=1")
    command.wait_for("Ctrl-C ends it")
    assert f"http://127.0.0.1:{port}" in command.log.read_text()
    assert TOKEN not in command.log.read_text()
    expected = Recognizer.load(checkpoint, device="cpu").predict(videos[0]).record()
    code, body = request(port, "POST", "/predict", form(videos[0].read_bytes(), name="0.mp4"))
    reply = json.loads(body)
    assert (code, reply["video"], reply["frames"]) == (200, "0.mp4", 25)
    for mine, other in zip(reply["scores"], expected["scores"], strict=True):
        assert mine["probability"] == pytest.approx(other["probability"], abs=1e-5)
    assert request(port, "POST", "/predict", form(), Authorization="Bearer wrong")[0] == 401
    # The client sends everything before it reads: the answer must survive that.
    assert request(port, "POST", "/predict", form(bytes(6_000_000)))[0] == 413
    assert command.end(number) == status
    assert "Traceback" not in command.log.read_text()
    assert not files()
    with pytest.raises(ConnectionRefusedError):
        request(port, "GET", "/healthz")


def test_two_replicas_have_one_set_of_metrics(start, checkpoint, videos, port):
    command = start(checkpoint, "--port", port, "--replicas", 2, "--cpus", 0.5)
    command.wait_for("Ctrl-C ends it")
    for _ in range(12):
        assert request(port, "POST", "/predict", form(videos[0].read_bytes()))[0] == 200
    # The other replica reports every few seconds.
    time.sleep(5)
    for _ in range(4):
        text = request(port, "GET", "/metrics")[1].decode()
        assert 'evclip_ray_requests_total{status="200"} 12.0' in text
    assert command.end() == 143


def test_checkpoint_that_does_not_load_is_one_line(start, checkpoint, tmp_path, port):
    broken = tmp_path / "best"
    broken.mkdir()
    for path in checkpoint.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    with (broken / "adapter.safetensors").open("r+b") as stream:
        stream.truncate(100)
    command = start(broken, "--port", port, "--cpus", 0.5)
    command.wait_for("Error: ")
    assert command.process.wait(60) == 1
    last = command.log.read_text().splitlines()[-1]
    assert last.startswith(f"Error: {broken / 'adapter.safetensors'}: must have")
