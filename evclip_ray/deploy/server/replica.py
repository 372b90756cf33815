"""The server on Ray Serve: replicas with the app, a recognizer and processes that decode.

Every replica does all of its work, so that replicas on several machines share the decoding too. Only the
metrics are brought together, because a scrape reaches any one of the replicas.
"""

import asyncio
import contextlib
import logging
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from starlette.types import ASGIApp

from evclip_ray.config import ConfigError
from evclip_ray.deploy.server.app import create_app
from evclip_ray.deploy.server.limits import ServerSettings, token_of
from evclip_ray.deploy.server.metrics import Metrics, MetricsBoard
from evclip_ray.deploy.server.service import RecognitionService
from evclip_ray.deploy.server.uploads import UploadFolder

log = logging.getLogger(__name__)

_APP = "evclip-ray"
_REPORT_SECONDS = 3
# The app counts its requests itself, and must answer /healthz and /metrics under load too.
_MANY_REQUESTS = 10_000
_SHUTDOWN_SECONDS = 10


@serve.ingress()
class Replica:
    """Replica of the server.

    Args:
        settings: Settings as JSON values, see `ServerSettings`.
        board: Sums of the metrics of all replicas; None for a single one.
    """

    def __init__(self, settings: Mapping[str, Any], board: DeploymentHandle | None = None) -> None:
        from evclip_ray.deploy.recognizer import Recognizer

        self._settings = ServerSettings.load(settings)
        self._token = token_of(self._settings)
        self._board, self._metrics, self._name = board, Metrics(), uuid.uuid4().hex
        device = self._settings.device or ("cuda" if self._settings.gpus else "cpu")
        recognizer = Recognizer.load(self._settings.checkpoint, classes=self._settings.classes, device=device)
        self._service = RecognitionService(
            recognizer,
            limits=self._settings.limits,
            metrics=self._metrics,
            batch_size=self._settings.batch_size,
            decoders=self._settings.decoders,
        )
        self._folder = UploadFolder()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the app; Ray Serve calls this after the constructor."""
        return create_app(
            self._service,
            self._settings,
            self._folder,
            self._metrics,
            token=self._token,
            render_metrics=None if self._board is None else self._render_metrics,
            background=None if self._board is None else self._report,
        )

    async def _report(self) -> None:
        """Report the metrics from time to time, because a scrape may reach another replica."""
        assert self._board is not None
        while True:
            try:
                await self._board.update.remote(self._name, self._metrics.families())
            # The next report has everything that this one has.
            except Exception as error:
                log.warning("the metrics could not be reported: %s", error)
            await asyncio.sleep(_REPORT_SECONDS)

    async def _render_metrics(self) -> bytes:
        assert self._board is not None
        await self._board.update.remote(self._name, self._metrics.families())
        text: bytes = await self._board.render.remote()
        return text


def application(settings: Mapping[str, Any]) -> serve.Application:
    """Return the application of Ray Serve; the import path in a RayService.

    Args:
        settings: See `ServerSettings`. `host` is that of the proxies, which the cluster sets.

    Raises:
        ConfigError: A setting is invalid, or other machines could use the server without a token.
    """
    checked = ServerSettings.load(settings)
    token_of(checked)
    board = None
    if checked.replicas > 1:
        board = serve.deployment(MetricsBoard, name="metrics", ray_actor_options={"num_cpus": 0}).bind()
    replicas = serve.deployment(
        Replica,
        name="recognizer",
        num_replicas=checked.replicas,
        ray_actor_options={"num_cpus": checked.cpus, "num_gpus": checked.gpus},
        max_ongoing_requests=_MANY_REQUESTS,
        graceful_shutdown_timeout_s=_SHUTDOWN_SECONDS,
        # A checkpoint that does not load once does not load the next time either.
        max_constructor_retry_count=1,
    )
    return replicas.bind(checked.model_dump(mode="json"), board)


@contextlib.contextmanager
def running(settings: ServerSettings, *, port: int) -> Iterator[None]:
    """Run the server on the connected Ray for the time of the block.

    Args:
        settings: Settings.
        port: Port of the server.

    Raises:
        ConfigError: The server could not be started.
    """
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(host=settings.host, port=port),
        logging_config=quiet,
    )
    try:
        try:
            serve.run(
                application(settings.model_dump(mode="json")),
                name=_APP,
                route_prefix="/",
                logging_config=quiet,
            )
        except RuntimeError as error:
            raise ConfigError(_reason(error)) from None
        yield
    finally:
        _end()


def _end() -> None:
    """End the replicas after the requests that they compute.

    `serve.shutdown` would do the same and then kill its controller while that answers, which prints an error.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    thread = threading.Thread(target=serve.delete, args=(_APP,), daemon=True)
    thread.start()
    until = time.monotonic() + _SHUTDOWN_SECONDS + 5
    # A service manager may send its signal to all processes. Ray is dead then, and the call never returns.
    while thread.is_alive() and time.monotonic() < until and _answers(host, int(port)):
        thread.join(0.2)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def _reason(error: RuntimeError) -> str:
    """Return the error of a replica that did not start."""
    application = serve.status().applications.get(_APP)
    texts = [deployment.message for deployment in application.deployments.values()] if application else []
    # The status holds the traceback of the replica. It ends with the first line that is not indented.
    trace = "".join(texts).rpartition("Traceback (most recent call last):")[2].strip("\n")
    match = re.search(r"^(\S+?): (.+)", trace, re.MULTILINE | re.DOTALL)
    if match is None:
        return " ".join(str(error).split())
    # An error of this package has a text of its own. The type of any other one is part of what is wrong.
    name, text = match.groups()
    return text if name.startswith("evclip_ray.") else f"{name}: {text}"
