"""ASGI middleware around the app: token, origin, headers of every response, and answers to refusals."""

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evclip_ray.deploy.server.limits import Refusal
from evclip_ray.deploy.server.metrics import Metrics
from evclip_ray.formatting import counted

log = logging.getLogger(__name__)

OPEN_PATHS = ("/", "/docs", "/openapi.json", "/healthz", "/page/app.css", "/page/app.js")
"""Paths that need no token: they neither cost anything nor show anything of the model."""

_HEADERS = {
    # The page loads its own files and nothing else. The preview of a video and pictures of masks have no
    # address of their own.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# Key of the scope of a request, set when its body has arrived or its client has gone.
_BODY_HAS_ENDED = "evclip_ray.body_has_ended"
_LINGER_SECONDS = 5
_LINGER_BYTES = 300_000_000
CLIENT_GONE = 499
"""Status of a request whose client has gone, as nginx counts it."""


class RefusalResponse(JSONResponse):
    """Answer to a refused request, whose body may still be arriving.

    Closing a connection with unread bytes resets it, and the client would see a broken pipe instead of the
    status. The answer is therefore sent first. The rest of the body is then read and dropped for a short
    time, in which clients that read the answer stop sending.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__({"error": refusal.reason}, refusal.status, headers=refusal.headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer and drop the rest of the request."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        dropped = 0
        # `receive` of a complete body waits until the client goes away.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while not scope.get(_BODY_HAS_ENDED) and dropped < _LINGER_BYTES:
                    dropped += len((await receive()).get("body", b""))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Guard:
    """Middleware that checks who asks, and adds the headers of every response.

    With a token, each request must carry it, except for `OPEN_PATHS`. Without a token, the browser of the
    user could be made to send requests by any page that it shows. Requests of another origin are then
    refused, and so is another host name than that of this machine while only this machine can connect
    (a page may let its name resolve to 127.0.0.1).

    Args:
        app: The app.
        token: Bearer token; None without one.
        is_loopback: Whether only this machine can reach the server.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, is_loopback: bool) -> None:
        self._app, self._is_loopback = app, is_loopback
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def noting_receive() -> Message:
            try:
                message = await receive()
            # Ray Serve cancels its own calls for the body when a client goes away, which raises here.
            except Exception as error:
                log.info("the body of a request is lost: %r", error)
                message = {"type": "http.disconnect"}
            if not message.get("more_body", False):
                scope[_BODY_HAS_ENDED] = True
            return message

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope["path"], Headers(scope=scope))
        except Refusal as refusal:
            await RefusalResponse(refusal)(scope, noting_receive, send_with_headers)
            return
        await self._app(scope, noting_receive, send_with_headers)

    def _check(self, path: str, headers: Headers) -> None:
        if self._expected is not None:
            given = headers.get("authorization", "").encode("latin-1")
            if path not in OPEN_PATHS and not hmac.compare_digest(given, self._expected):
                raise Refusal(
                    401,
                    "needs the token of this server in the header Authorization: Bearer TOKEN",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            return
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refusal(403, f"requests of pages of another origin ({origin[:200]}) are refused")
        if self._is_loopback and not _is_this_machine(host):
            raise Refusal(
                403, f"Host {host[:200]!r}: a server without a token answers to localhost and 127.0.0.1 only"
            )


def _is_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Measured:
    """Middleware that counts the requests of one path by status, with their time.

    Args:
        app: The app.
        path: The path.
        metrics: Metrics of this replica.
    """

    def __init__(self, app: ASGIApp, *, path: str, metrics: Metrics) -> None:
        self._app, self._path, self._metrics = app, path, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count it."""
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), CLIENT_GONE

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        finally:
            # Also if Ray cancels the request of a client that has gone.
            self._metrics.requests.labels(str(status)).inc()
            self._metrics.seconds.labels(str(status)).observe(time.perf_counter() - start)


class Slots:
    """Number of requests that are worked on at a time.

    Args:
        number: Largest number.
        on_change: Called with the present number.
    """

    def __init__(self, number: int, on_change: Callable[[float], object]) -> None:
        self._number, self._on_change, self._taken = number, on_change, 0

    def __enter__(self) -> None:
        if self._taken >= self._number:
            raise Refusal(
                503,
                f"the server works on {counted(self._taken, 'request')}, its limit; try again",
                headers={"Retry-After": "2"},
            )
        self._taken += 1
        self._on_change(self._taken)

    def __exit__(self, *_: object) -> None:
        self._taken -= 1
        self._on_change(self._taken)
