"""The HTTP app of the server. It does not know Ray, so that it runs in any ASGI server and in tests."""

import asyncio
import contextlib
import html
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from evclip_ray.config import explain
from evclip_ray.deploy.server import uploads
from evclip_ray.deploy.server.addresses import AllowedUrls
from evclip_ray.deploy.server.guards import CLIENT_GONE, Guard, Measured, RefusalResponse, Slots
from evclip_ray.deploy.server.limits import Refusal, ServerSettings
from evclip_ray.deploy.server.metrics import CONTENT_TYPE, Metrics
from evclip_ray.deploy.server.service import Answer, Options
from evclip_ray.machine_faults import find_fault
from evclip_ray.version import __version__

log = logging.getLogger(__name__)

_PAGE = Path(__file__).parent / "page"


class Service(Protocol):
    """What the app needs: `RecognitionService`, or a replacement in tests."""

    async def start(self) -> None:
        """Prepare for requests."""

    async def close(self) -> None:
        """Release everything."""

    def info(self) -> dict[str, Any]:
        """Return facts of the model."""

    async def recognize(self, path: Path, name: str, options: Options) -> Answer:
        """Recognise a video."""


def create_app(
    service: Service,
    settings: ServerSettings,
    folder: uploads.UploadFolder,
    metrics: Metrics,
    *,
    token: str | None = None,
    render_metrics: Callable[[], Awaitable[bytes]] | None = None,
    background: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> ASGIApp:
    """Return the app.

    Args:
        service: Recognises videos. Its life is that of the app.
        settings: Settings and limits.
        folder: Folder of the uploads. The app removes it at its end.
        metrics: Metrics of this replica.
        token: Bearer token that requests must carry; None without one.
        render_metrics: Returns the metrics of all replicas; by default those of this one.
        background: Work that runs as long as the app.
    """
    limits, urls = settings.limits, AllowedUrls(settings.allow_urls)
    slots = Slots(limits.requests, metrics.running.set)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with folder:
            await service.start()
            task = None if background is None else asyncio.create_task(background())
            try:
                yield
            finally:
                if task is not None:
                    task.cancel()
                await service.close()

    # FastAPI's own pages of documentation load scripts from another server.
    app = FastAPI(
        title="evclip-ray",
        version=__version__,
        description="Recognises what happens in a video.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )

    @app.post("/predict", summary="Recognise a video", openapi_extra=_documentation())
    async def predict(request: Request) -> Response:
        try:
            with slots, folder.new_file() as path:
                name, options = await receive(request, path)
                metrics.upload_bytes.inc(path.stat().st_size)
                answer = await service.recognize(path, name, options)
                return JSONResponse(answer.record())
        except ClientDisconnect:
            # Nobody receives it.
            return Response(status_code=CLIENT_GONE)

    async def receive(request: Request, path: Path) -> tuple[str, Options]:
        """Receive a video into a file. Returns its name and the parameters."""
        if request.query_params:
            names = ", ".join(request.query_params)[:100]
            raise Refusal(422, f"{names}: send parameters as fields of the form, such as curl -F top_k=3")
        _check_headers(request, uploads.max_body(limits))
        content_type = request.headers.get("content-type", "")
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            name, fields = await uploads.read_form(request.stream(), content_type, path, limits)
            return name, _options({key: _value(key, values) for key, values in fields.items()})
        if kind != "application/json":
            raise Refusal(
                415,
                f"Content-Type {kind[:100]!r}: send a form (multipart/form-data) with the part 'video', or "
                'JSON (application/json) such as {"url": "https://host/my.mp4"}',
            )
        fields = _json(await uploads.read_body(request.stream(), limits))
        url = fields.pop("url", None)
        if not isinstance(url, str):
            raise Refusal(422, 'the JSON needs a text "url"; send a video file as a form')
        options = _options(fields)
        await urls.download(url, path, limits)
        return url.partition("?")[0].rpartition("/")[2][:255] or "video", options

    @app.get("/healthz", summary="Whether the server is ready")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/info", summary="Classes, method and limits")
    async def info() -> dict[str, Any]:
        return service.info()

    @app.get("/metrics", summary="Metrics in Prometheus' text format")
    async def metrics_text() -> Response:
        text = metrics.render() if render_metrics is None else await render_metrics()
        return Response(text, media_type=CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_PAGE / "index.html")

    @app.get("/page/app.css", include_in_schema=False)
    async def style() -> Response:
        return FileResponse(_PAGE / "app.css")

    @app.get("/page/app.js", include_in_schema=False)
    async def script() -> Response:
        return FileResponse(_PAGE / "app.js")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(_docs_page(app.openapi()))

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Exception) -> Response:
        assert isinstance(refusal, Refusal)
        return RefusalResponse(refusal)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return RefusalResponse(Refusal(error.status_code, str(error.detail), headers=error.headers))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        # Starlette logs the traceback.
        fault = find_fault(error)
        if fault is not None:
            log.error("%s", fault.describe(folder.path))
            return JSONResponse({"error": f"the server cannot work: {fault.reason}"}, 503)
        return JSONResponse({"error": "internal error; see the log of the server"}, 500)

    guarded = Guard(app, token=token, is_loopback=settings.is_loopback)
    return Measured(guarded, path="/predict", metrics=metrics)


def _check_headers(request: Request, max_bytes: int) -> None:
    """Refuse a request that its headers show to be too large or compressed."""
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        # A few kilobytes could expand to gigabytes.
        raise Refusal(415, f"Content-Encoding {encoding[:100]!r}: send the body uncompressed")
    length = request.headers.get("content-length", "0")
    # The servers of HTTP refuse a length that is not a number. A wrong one is noticed while the body arrives.
    if length.isascii() and length.isdigit() and int(length) > max_bytes:
        raise Refusal(413, f"Content-Length {length}: larger than the limit of {max_bytes} bytes")


def _json(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(422, "the body is not JSON") from None
    if not isinstance(fields, dict):
        raise Refusal(422, 'the JSON must be an object such as {"url": "https://host/my.mp4"}')
    return fields


def _value(name: str, values: list[str]) -> Any:
    """Return the value of a form's field. A list of classes is one field per class."""
    if name == "classes":
        return values
    if len(values) > 1:
        raise Refusal(422, f"{name}: given {len(values)} times")
    return values[0]


def _options(fields: dict[str, Any]) -> Options:
    try:
        return Options.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])[:100]
        if first["type"] == "extra_forbidden":
            raise Refusal(
                422, f"{name}: unknown parameter; there are {', '.join(Options.model_fields)}"
            ) from None
        raise Refusal(422, f"{name}: {explain(first)[:500]}") from None


_STATUSES = {
    401: "The token is missing or wrong.",
    403: "The URL, or the origin of the page, is not allowed.",
    408: "The upload is too slow.",
    413: "The upload is too large.",
    415: "The body is compressed, or is neither a form nor JSON.",
    422: "The file is not a video, the video is beyond a limit, or a parameter is out of range.",
    502: "The URL cannot be read.",
    503: "The server works on too many requests. Try again after the time in Retry-After.",
    504: "The server of the URL does not answer in time.",
}


def _documentation() -> dict[str, Any]:
    """Return the parts of the OpenAPI document that FastAPI cannot derive from a body that is streamed."""
    parameters = Options.model_json_schema()["properties"]
    video = {"video": {"type": "string", "format": "binary", "description": "The video file."}}
    url = {"url": {"type": "string", "description": "URL of the video, on the allow-list of the server."}}
    bodies = {"multipart/form-data": video, "application/json": url}
    return {
        "requestBody": {
            "required": True,
            "content": {
                kind: {
                    "schema": {
                        "type": "object",
                        "required": [*source],
                        "properties": {**source, **parameters},
                    }
                }
                for kind, source in bodies.items()
            },
        },
        "responses": {
            "200": {"description": "The prediction, as evclip-ray predict --json prints it."},
            **{str(status): {"description": text} for status, text in _STATUSES.items()},
        },
    }


def _docs_page(schema: dict[str, Any]) -> str:
    """Return a page without scripts that shows the OpenAPI document."""
    parts = []
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(operation.get('summary', ''))}</p>")
            for kind, body in operation.get("requestBody", {}).get("content", {}).items():
                rows = "".join(
                    f"<tr><th scope=row><code>{html.escape(name)}</code></th><td>{_type(facts)}</td></tr>"
                    for name, facts in body["schema"]["properties"].items()
                )
                parts.append(f"<h3>{html.escape(kind)}</h3><table>{rows}</table>")
            rows = "".join(
                f"<tr><th scope=row>{status}</th><td>{html.escape(facts['description'])}</td></tr>"
                for status, facts in operation["responses"].items()
            )
            parts.append(f"<h3>Answers</h3><table>{rows}</table>")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>evclip-ray API</title>'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="page/app.css">'
        '<main><h1>evclip-ray API</h1><p><a href="openapi.json">OpenAPI document</a>, '
        f'<a href=".">upload a video</a></p>{"".join(parts)}</main></html>'
    )


def _type(facts: dict[str, Any]) -> str:
    """Return type, range and default of a parameter as text."""
    kinds = [kind for kind in facts.get("anyOf", [facts]) if kind.get("type") != "null"]
    words = [str(kinds[0].get("format") or kinds[0].get("type"))]
    names = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
    words += [f"{text} {kinds[0][name]:g}" for name, text in names.items() if name in kinds[0]]
    words += [f"default {facts['default']}"] if facts.get("default") is not None else []
    return html.escape(f"{facts.get('description', '')} ({', '.join(words)})")
