"""Client of an ASGI app without a network: it controls every message, such as a body that stops arriving."""

import asyncio
import json
from typing import NamedTuple

BOUNDARY = "1f2e3d"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


class Reply(NamedTuple):
    status: int | None
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]


def form(video=b"a video", *, name="my.mp4", part="video", end=True, **fields):
    """Return the body of a form. A field with several values is a list."""
    lines = []
    for field, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            lines.append(
                f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode()
            )
    if video is not None:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{part}"; filename="{name}"\r\n\r\n'
        lines += [head.encode(), video, b"\r\n"]
    return b"".join(lines) + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


async def send(app, path, *, query="", method="GET", headers=None, chunks=(), then="end", on_start=None):
    """Send a request.

    Args:
        app: The app.
        path: Path.
        query: Text behind the question mark.
        method: Method of HTTP.
        headers: Headers besides Host.
        chunks: Parts of the body.
        then: What follows them: "end" of the body, "gone" for a client that disconnects, or "stall".
        on_start: Called with the status as soon as the answer starts.
    """
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if then == "end":
        messages.append({"type": "http.request", "body": b"", "more_body": False})
    elif then == "gone":
        messages.append({"type": "http.disconnect"})
    left, started, bodies = iter(messages), [], []

    async def receive():
        message = next(left, None)
        if message is None:
            await asyncio.Event().wait()
        # As in a server, other requests run between two messages.
        await asyncio.sleep(0)
        return message

    async def answer(message):
        if message["type"] == "http.response.start":
            started.append(message)
            if on_start is not None:
                on_start(message["status"])
        else:
            bodies.append(message.get("body", b""))

    given = {"host": "localhost", **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    await app(scope, receive, answer)
    if not started:
        return Reply(None, {}, b"")
    names = {name.decode(): value.decode() for name, value in started[0]["headers"]}
    return Reply(started[0]["status"], names, b"".join(bodies))


async def post_form(app, body=None, *, headers=None, **options):
    """Send a form to /predict, in one chunk unless `chunks` are given."""
    given = {"content-type": FORM, **(headers or {})}
    chunks = options.pop("chunks", None) or [form() if body is None else body]
    return await send(app, "/predict", method="POST", headers=given, chunks=chunks, **options)


async def post_json(app, value, **options):
    """Send JSON to /predict."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    headers = {"content-type": "application/json"}
    return await send(app, "/predict", method="POST", headers=headers, chunks=[body], **options)
