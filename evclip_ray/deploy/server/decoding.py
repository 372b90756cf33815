"""Processes that decode uploaded videos, see `decode_child` for the reason."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np

from evclip_ray.data.video.view import ViewConfig
from evclip_ray.deploy.reading import View
from evclip_ray.deploy.server.limits import TOKEN_VARIABLE, Limits, Refusal
from evclip_ray.deploy.server.metrics import Metrics

log = logging.getLogger(__name__)

_MODULE = "evclip_ray.deploy.server.decode_child"
# As `decode_child.TIMEOUT_STATUS`; importing the program here would load it twice.
_TIMEOUT_STATUS = 1
# A message is one line. Of pixels, the pipe holds this much before the child waits.
_PIPE_BYTES = 2**22


class DecodePool:
    """Pool of processes that decode. A process that a video ended is replaced.

    Args:
        size: Number of processes.
        view: View of the recogniser.
        limits: Limits of a video.
        metrics: Metrics of this replica.
    """

    def __init__(self, size: int, view: ViewConfig, limits: Limits, metrics: Metrics) -> None:
        self._size, self._metrics, self._limits = size, metrics, limits
        self._request = {"view": view.model_dump(mode="json"), "limits": limits.model_dump(mode="json")}
        # None stands for a process that has yet to be started.
        self._idle: asyncio.Queue[Process | None] = asyncio.Queue()
        self._processes: set[Process | None] = set()

    async def start(self) -> None:
        """Start the processes."""
        for process in await asyncio.gather(*(self._start() for _ in range(self._size))):
            self._idle.put_nowait(process)

    async def close(self) -> None:
        """End the processes."""
        for process in [*self._processes]:
            if process is not None:
                await self._kill(process)

    async def read(
        self, path: Path, *, window: float | None, stride: float | None
    ) -> AsyncGenerator[View, None]:
        """Yield the view of each window of a video. Leaving the loop early ends the process.

        Args:
            path: The video.
            window: Seconds of a window; None for one view of the whole video.
            stride: Seconds between windows.

        Raises:
            Refusal: The video does not decode or is beyond a limit.
        """
        process = await self._idle.get()
        is_usable = False
        try:
            if process is None or process.returncode is not None:
                self._processes.discard(process)
                process = await self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            request = {**self._request, "path": str(path), "window": window, "stride": stride}
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await process.stdin.drain()
            while True:
                message = await _receive(process)
                if (header := message.get("view")) is not None:
                    pixels = await process.stdout.readexactly(int(np.prod(header["shape"])))
                    yield _view(header, pixels)
                    continue
                is_usable = not message.get("is_last")
                if "error" in message:
                    raise Refusal(message["status"], message["error"])
                self._metrics.decode_seconds.observe(message["seconds"])
                return
        except (asyncio.IncompleteReadError, ConnectionError):
            raise await self._death(process) from None
        finally:
            # Also if the request was cancelled, because its client has gone: nobody waits for the rest.
            self._idle.put_nowait(process if is_usable else None)
            if process is not None and not is_usable:
                self._metrics.decoder_restarts.inc()
                await asyncio.shield(self._kill(process))

    async def _start(self) -> Process:
        environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
        environment |= {
            # Each process uses one core; their number is a setting.
            "OMP_NUM_THREADS": "1",
            # The package may have been imported from a folder that is not installed.
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", _MODULE),
            stdin=PIPE,
            stdout=PIPE,
            env=environment,
            limit=_PIPE_BYTES,
            # Ctrl-C in a terminal reaches the processes of its session; the command ends these ones itself.
            start_new_session=True,
        )
        self._processes.add(process)
        return process

    async def _kill(self, process: Process) -> None:
        self._processes.discard(process)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def _death(self, process: Process | None) -> Exception:
        """Return the error for a process that ended while it decoded."""
        if process is None:
            return RuntimeError("the decoder could not be started")
        status = await process.wait()
        if status == _TIMEOUT_STATUS:
            limit = self._limits.decode_seconds
            return Refusal(422, f"takes longer than {limit:g} s to decode, the limit")
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        log.warning("the decoder of a video ended (%s)", name)
        return Refusal(422, f"ends the decoder ({name}); the file is damaged")


async def _receive(process: Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise asyncio.IncompleteReadError(b"", None)
    message: dict[str, Any] = json.loads(line)
    return message


def _view(header: dict[str, Any], pixels: bytes) -> View:
    frames = np.frombuffer(pixels, np.uint8).reshape(header["shape"])
    return View(header["start"], header["end"], frames, header["duration"], header["num_frames"])
