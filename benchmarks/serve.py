"""Load test of `evclip-ray serve`: many clients, and good, broken, oversized, slow and cut-off uploads.

The server runs as a user starts it. Every good upload must be answered as `Recognizer.predict` answers, every
bad one with its status. The memory of the server's processes is read before, at half time and at the end, and
no file may be left.

Run: python benchmarks/serve.py CHECKPOINT VIDEOS [--requests 500] [--clients 16] [--replicas 1]
     [--mix all|good] [--out FILE.json]
"""

import argparse
import collections
import contextlib
import dataclasses
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np

from evclip_ray.artifacts import provenance
from evclip_ray.deploy.recognizer import Recognizer
from evclip_ray.deploy.server.uploads import base_folder

TOKEN = "token-of-the-load-test"
BOUNDARY = "load-test-boundary"
LIMITS = {"upload_megabytes": 4, "stall_seconds": 2, "upload_seconds": 20, "duration_seconds": 60}
TOLERANCE = 1e-4
PROCESSES = ("ServeReplica", "ProxyActor", "decode_child")
# One of each kind in 20 requests; the others are good. A slow upload is refused after `stall_seconds`.
BAD = (
    "not_video",
    "large_pictures",
    "too_long",
    "oversized",
    "chunked_oversized",
    "slow",
    "cut_off",
    "no_token",
    "gzip",
)


@dataclasses.dataclass
class Result:
    """One request: its kind, time, and what was wrong with the answer."""

    kind: str
    seconds: float
    problem: str | None = None


def form(video: bytes, name: str = "video.mp4", **fields: Any) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="video"; filename="{name}"\r\n\r\n'
    return b"".join([*parts, head.encode(), video, f"\r\n--{BOUNDARY}--\r\n".encode()])


def write_video(path: Path, *, size: tuple[int, int], seconds_per_frame: int) -> bytes:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height = size
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(np.zeros((size[1], size[0]), np.uint8), format="gray")
            frame.pts = number * seconds_per_frame
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


class Client:
    """Sends one request of each kind and compares the answer with what it must be."""

    def __init__(self, port: int, videos: dict[Path, dict[str, Any]], folder: Path) -> None:
        self.port, self.videos = port, videos
        self.large_pictures = write_video(folder / "8k.mp4", size=(8000, 4320), seconds_per_frame=1)
        self.hours = write_video(folder / "hours.mp4", size=(64, 64), seconds_per_frame=14_400)
        self.expected = {
            "not_video": 422,
            "large_pictures": 422,
            "too_long": 422,
            "oversized": 413,
            "chunked_oversized": 413,
            "slow": 408,
            "no_token": 401,
            "gzip": 415,
        }

    def send(self, kind: str, seed: int) -> Result:
        """Send a request."""
        start = time.perf_counter()
        try:
            problem = getattr(self, f"_{kind}", self._refused)(kind, random.Random(seed))
        except OSError as error:
            problem = f"{type(error).__name__}: {error}"
        return Result(kind, time.perf_counter() - start, problem)

    def _post(self, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            given = {
                "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
                "Authorization": f"Bearer {TOKEN}",
                **headers,
            }
            is_chunked = not isinstance(body, bytes)
            # The server answers before it has read everything, and may stop reading.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request("POST", "/predict", body, given, encode_chunked=is_chunked)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def _good(self, kind: str, chance: random.Random) -> str | None:
        path = chance.choice([*self.videos])
        status, reply = self._post(form(path.read_bytes(), path.name))
        while status == 503:
            time.sleep(0.5)
            status, reply = self._post(form(path.read_bytes(), path.name))
        return f"status {status}: {reply}" if status != 200 else difference(reply, self.videos[path])

    def _refused(self, kind: str, chance: random.Random) -> str | None:
        body: Any = form(chance.randbytes(20_000))
        headers = {}
        if kind == "large_pictures":
            body = form(self.large_pictures)
        elif kind == "too_long":
            body = form(self.hours)
        elif kind == "oversized":
            body = form(bytes(8_000_000))
        elif kind == "chunked_oversized":
            body = chunks(form(bytes(8_000_000)))
            headers["Transfer-Encoding"] = "chunked"
        elif kind == "no_token":
            headers["Authorization"] = "Bearer wrong"
        elif kind == "gzip":
            headers["Content-Encoding"] = "gzip"
        status, reply = self._post(body, **headers)
        return None if status == self.expected[kind] else f"status {status}: {reply}"

    def _slow(self, kind: str, chance: random.Random) -> str | None:
        """Announce more bytes than are sent, and wait."""
        with self._started(chance) as connection:
            connection.settimeout(60)
            line = connection.recv(100)
        return None if b" 408 " in line else f"answer {line!r}"

    def _cut_off(self, kind: str, chance: random.Random) -> str | None:
        """Go away in the middle of the upload, or after it and before the answer."""
        if chance.random() < 0.5:
            self._started(chance).close()
            return None
        path = chance.choice([*self.videos])
        body = form(path.read_bytes())
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(self._head(len(body)) + body)
            time.sleep(0.02)
        return None

    def _started(self, chance: random.Random) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port))
        body = form(chance.randbytes(100_000))
        connection.sendall(self._head(len(body)) + body[: chance.randrange(1000, 90_000)])
        return connection

    def _head(self, length: int) -> bytes:
        return (
            f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {length}\r\n\r\n"
        ).encode()


def chunks(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 50_000):
        yield body[start : start + 50_000]


def difference(reply: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """Return how an answer differs from that of `predict`: classes, and probabilities to `TOLERANCE`."""
    for key in ("duration_seconds", "frames", "unknown", "video"):
        if reply[key] != expected[key]:
            return f"{key}: {reply[key]} instead of {expected[key]}"
    for mine, other in zip(reply["scores"], expected["scores"], strict=True):
        # Probabilities that are equal to the tolerance may change their order.
        if abs(mine["probability"] - other["probability"]) > TOLERANCE:
            return f"{mine} instead of {other}"
    if reply["scores"][0]["class"] != expected["scores"][0]["class"]:
        return f"{reply['scores'][0]} instead of {expected['scores'][0]}"
    return None


def expected_answers(checkpoint: Path, videos: list[Path]) -> dict[Path, dict[str, Any]]:
    recognizer = Recognizer.load(checkpoint, device="cpu")
    return {video: {**recognizer.predict(video).record(), "video": video.name} for video in videos}


class Server:
    """`evclip-ray serve` as a process; a context manager."""

    def __init__(self, checkpoint: Path, port: int, *, replicas: int, log: Path) -> None:
        self.port, self.log = port, log
        limits = [part for name, value in LIMITS.items() for part in ("--limit", f"{name}={value}")]
        cpus = ["--replicas", str(replicas), "--cpus", str(1 / replicas)]
        self._command = [sys.executable, "-m", "evclip_ray", "serve", str(checkpoint), "--port", str(port)]
        self._command += [*limits, *cpus]

    def __enter__(self) -> "Server":
        environment = {**os.environ, "EVCLIP_RAY_TOKEN": TOKEN}
        with self.log.open("w") as log:
            # Its own group, so that Ctrl-C of the load test does not reach it twice.
            self._process = subprocess.Popen(
                self._command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        while "serving http" not in (text := self.log.read_text()):
            if self._process.poll() is not None:
                raise SystemExit(text)
            time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self.status = self._process.wait(60)

    def memory(self) -> dict[str, int]:
        """Return the memory of the server's processes in MiB that no other process shares."""
        sizes: collections.Counter[str] = collections.Counter()
        for pid in descendants(self._process.pid):
            try:
                name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:  # It has ended.
                continue
            kind = next(
                (text for text in ("ServeReplica", "ProxyActor", "decode_child") if text in name), None
            )
            if kind is not None:
                private = [line.split() for line in rollup.splitlines() if line.startswith("Private_")]
                sizes[kind] += sum(int(words[1]) for words in private) // 1024
        return dict(sizes)

    def metrics(self) -> str:
        """Return the text of /metrics."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        return connection.getresponse().read().decode()


def descendants(root: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may contain anything.
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def plan(number: int, mix: str) -> list[str]:
    kinds = ["good" if mix == "good" or i % 20 >= len(BAD) else BAD[i % 20] for i in range(number)]
    random.Random(0).shuffle(kinds)
    return kinds


def left_files() -> list[str]:
    return sorted(str(path) for path in base_folder().rglob("*") if path.is_file())


def run(
    kinds: list[str], clients: int, send: Callable[[str, int], Result], half: threading.Event
) -> list[Result]:
    done = 0
    lock = threading.Lock()

    def one(item: tuple[int, str]) -> Result:
        nonlocal done
        result = send(item[1], item[0])
        with lock:
            done += 1
            if done >= len(kinds) // 2:
                half.set()
        return result

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(one, enumerate(kinds)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("videos", type=Path, help="folder of videos that the checkpoint can read")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--mix", choices=["all", "good"], default="all")
    parser.add_argument("--port", type=int, default=18_000)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    videos = sorted(options.videos.rglob("*.mp4"))[:40]
    expected = expected_answers(options.checkpoint, videos)
    with tempfile.TemporaryDirectory() as folder:
        client = Client(options.port, expected, Path(folder))
        log = Path(folder) / "server.log"
        with Server(options.checkpoint, options.port, replicas=options.replicas, log=log) as server:
            # Warm: threads and allocators reach their size.
            run(["good"] * 32, options.clients, client.send, threading.Event())
            memory = {"start": server.memory()}
            half = threading.Event()
            watcher = threading.Thread(
                target=lambda: (half.wait(), memory.setdefault("half", server.memory()))
            )
            watcher.start()
            start = time.perf_counter()
            results = run(plan(options.requests, options.mix), options.clients, client.send, half)
            seconds = time.perf_counter() - start
            watcher.join()
            # Requests of clients that have gone end.
            time.sleep(3)
            memory["end"] = server.memory()
            files = {"running": left_files()}
            metrics = server.metrics()
        files["ended"] = left_files()
        text = log.read_text()
    report(options, results, seconds, memory, files, metrics, server.status, text)


def report(
    options: argparse.Namespace,
    results: list[Result],
    seconds: float,
    memory: dict[str, dict[str, int]],
    files: dict[str, list[str]],
    metrics: str,
    status: int,
    log: str,
) -> None:
    good = sorted(result.seconds for result in results if result.kind == "good")
    problems = [result for result in results if result.problem]
    record = {
        "requests": dict(collections.Counter(result.kind for result in results)),
        "clients": options.clients,
        "replicas": options.replicas,
        "seconds": round(seconds, 1),
        "requests_per_second": round(len(results) / seconds, 1),
        "good_median_seconds": round(statistics.median(good), 3),
        "good_p95_seconds": round(good[int(0.95 * len(good))], 3),
        "problems": [dataclasses.asdict(result) for result in problems],
        "memory_mib": memory,
        "left_files": files,
        "exit_status": status,
        "metrics": [line for line in metrics.splitlines() if line.startswith("evclip_ray_requests_total")],
        "provenance": provenance(),
    }
    print(json.dumps({name: value for name, value in record.items() if name != "provenance"}, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(record, indent=2))
    # The answer to a client that has gone is seen here only.
    has_errors = 'status="500"' in metrics
    if problems or files["running"] or files["ended"] or status != 143 or has_errors:
        raise SystemExit(f"failed: {len(problems)} wrong answers, see above\n{log}")


if __name__ == "__main__":
    main()
