import asyncio
import socket

import pytest
from aiohttp import web

from evclip_ray.config import ConfigError
from evclip_ray.deploy.server.addresses import AllowedUrls
from evclip_ray.deploy.server.limits import Limits, Refusal

LISTED = ["https://videos.example/public/", "http://10.0.0.7:8080/one.mp4", "http://[::1]:81/a"]


@pytest.mark.parametrize(
    "text", ["videos.example", "ftp://host/", "https://", "https://u:p@host/", "file:///a"]
)
def test_prefix_must_be_a_url(text):
    with pytest.raises(ConfigError, match="--allow-url"):
        AllowedUrls([text])


@pytest.mark.parametrize("text", ["https://host/?a=1", "https://host/#a"])
def test_prefix_has_no_query(text):
    with pytest.raises(ConfigError, match="query"):
        AllowedUrls([text])


@pytest.mark.parametrize(
    "url",
    [
        "https://videos.example/public/a.mp4?signature=1",
        "https://VIDEOS.example:443/public/b/c.mp4",
        "http://10.0.0.7:8080/one.mp4",
        "http://[::1]:81/a/b",
    ],
)
def test_url_below_a_prefix_is_allowed(url):
    AllowedUrls(LISTED).check(url)


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://videos.example/private/a.mp4", 403),
        ("https://videos.example/public", 403),
        ("http://videos.example/public/a.mp4", 403),
        ("https://videos.example:444/public/a.mp4", 403),
        ("https://videos.example.evil/public/a.mp4", 403),
        ("http://10.0.0.7:8080/one.mp4.b", 403),
        ("http://[::1]:81/ab", 403),
        ("https://videos.example/public/../private/a.mp4", 422),
        ("https://videos.example/public/%2e%2e/private/a.mp4", 422),
        ("https://videos.example/public/%252e%252e/private/a.mp4", 422),
        ("https://videos.example@evil.example/public/a.mp4", 422),
        ("https://videos.example\\@evil.example/public/a.mp4", 422),
        ("https://videos.example/public/a b", 422),
        ("https://videos.example:99999/public/", 422),
        ("file:///etc/passwd", 422),
        ("", 422),
    ],
)
def test_other_url_is_refused(url, status):
    with pytest.raises(Refusal) as caught:
        AllowedUrls(LISTED).check(url)
    assert caught.value.status == status


def download(tmp_path, respond, *, listed="http://127.0.0.1:{port}/videos/", url=None, **limits):
    """Download /videos/a.mp4 from a server on 127.0.0.1 and return the bytes."""

    async def work():
        app = web.Application()
        app.router.add_get("/{path:.*}", respond)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        path = tmp_path / "video"
        allowed = AllowedUrls([listed.format(port=port)])
        wanted = (url or "http://127.0.0.1:{port}/videos/a.mp4").format(port=port)
        try:
            await allowed.download(wanted, path, Limits(**limits))
        finally:
            await runner.cleanup()
        return path.read_bytes()

    return asyncio.run(work())


def redirect(target):
    return web.Response(status=302, headers={"Location": target})


def test_listed_private_address_is_read(tmp_path):
    async def respond(request):
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=b"video")

    assert download(tmp_path, respond) == b"video"


def test_redirect_within_the_list_is_followed(tmp_path):
    async def respond(request):
        if request.path == "/videos/a.mp4":
            raise web.HTTPFound("/videos/b.mp4")
        return web.Response(body=request.path.encode())

    assert download(tmp_path, respond) == b"/videos/b.mp4"


@pytest.mark.parametrize(
    ("response", "status", "message"),
    [
        (lambda: web.Response(status=302, headers={"Location": "/private"}), 403, "it is not listed"),
        (lambda: web.Response(status=302, headers={"Location": "file:///etc/passwd"}), 422, "must be a URL"),
        (
            lambda: web.Response(status=302, headers={"Location": "/videos/a.mp4"}),
            502,
            "more than 3 redirects",
        ),
        (lambda: web.Response(status=404), 502, "answers 404"),
        (lambda: web.Response(body=b""), 422, "empty"),
        (lambda: web.Response(body=b"x" * 2000), 413, "larger than 0.001 MB"),
        (lambda: web.Response(body=b"x", headers={"Content-Encoding": "gzip"}), 415, "compressed"),
    ],
)
def test_response_beyond_the_rules_is_refused(tmp_path, response, status, message):
    async def respond(request):
        return response()

    with pytest.raises(Refusal, match=message) as caught:
        download(tmp_path, respond, upload_megabytes=0.001)
    assert caught.value.status == status


def test_chunked_response_is_stopped_at_the_limit(tmp_path):
    async def respond(request):
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(10):
            await response.write(b"x" * 1000)
        return response

    with pytest.raises(Refusal) as caught:
        download(tmp_path, respond, upload_megabytes=0.001)
    assert caught.value.status == 413


def test_server_that_stalls_is_refused(tmp_path):
    async def respond(request):
        await asyncio.sleep(0.1)

    with pytest.raises(Refusal) as caught:
        download(tmp_path, respond, upload_seconds=0.02)
    assert caught.value.status == 504


def test_unreachable_server_is_refused(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    with pytest.raises(Refusal) as caught:
        asyncio.run(AllowedUrls([url]).download(url, tmp_path / "video", Limits()))
    assert caught.value.status == 502


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fe80::1"])
def test_name_of_a_private_address_is_refused(tmp_path, monkeypatch, address):
    """The name is public when it is listed. Whoever owns it can let it resolve to any address."""

    async def resolve(loop, host, port, **options):
        assert host == "videos.example"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    with pytest.raises(Refusal, match="which is not public") as caught:
        asyncio.run(
            AllowedUrls(["http://videos.example/"]).download(
                "http://videos.example/a.mp4", tmp_path / "video", Limits()
            )
        )
    assert caught.value.status == 403
