# ruff: noqa: E501 - tables of cases, one per line
import asyncio
import errno
import html.parser
import os

import pytest
from asgi_client import form, post_form, post_json, send

from evclip_ray.deploy.server.limits import Refusal

TOKEN = "a-secret-token"


def test_answer_is_the_record_of_the_prediction(make_app, service, run):
    reply = run(post_form(make_app(), form(b"content of the video")))
    assert reply.status == 200
    assert service.received == [b"content of the video"]
    assert reply.json == {
        "video": "my.mp4",
        "duration_seconds": 1.0,
        "frames": 25,
        "scores": [{"class": "run", "probability": 0.75}],
        "unknown": False,
        "windows": [
            {
                "start_seconds": 0.0,
                "end_seconds": 1.0,
                "scores": [{"class": "run", "probability": 0.75}],
                "unknown": False,
            }
        ],
    }


def test_parameters_of_a_form_reach_the_recognizer(make_app, service, run):
    body = form(top_k=3, window=2, stride="0.5", classes=["walk", "run"], masks="true")
    reply = run(post_form(make_app(), body))
    assert reply.json["windows"][0]["overlay"] == "data:image/jpeg;base64,SlBFRw=="
    options = service.options
    assert (options.top_k, options.window, options.stride, options.masks) == (3, 2.0, 0.5, True)
    assert options.classes == ("walk", "run")


def test_parameters_in_the_address_are_refused(make_app, service, run):
    reply = run(post_form(make_app(), query="top_k=3"))
    assert reply.status == 422
    assert reply.json["error"] == "top_k: send parameters as fields of the form, such as curl -F top_k=3"
    assert service.received == []


def test_form_may_arrive_byte_by_byte(make_app, service, run):
    body = form(b"\r\n--1f2e3\r\n video \r\n", top_k=2)
    reply = run(post_form(make_app(), chunks=[body[i : i + 1] for i in range(len(body))]))
    assert reply.status == 200
    assert service.received == [b"\r\n--1f2e3\r\n video \r\n"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (form(b""), 422, "my.mp4: the file is empty"),
        (form(None, top_k=1), 422, "the form has no file"),
        (form(part="file"), 422, "'file': send one file, as the part 'video'"),
        (form() + form(), 200, ""),  # bytes after the end of a form have no meaning
        (form(end=False), 422, "incomplete"),
        (b"", 422, "incomplete"),
        (b"no form at all", 422, "malformed"),
        (form(top_k=0), 422, "top_k: must be at least 1, got '0'"),
        (form(top_k="many"), 422, "top_k: "),
        (form(window="nan"), 422, "window: "),
        (form(window=-1), 422, "window: "),
        (form(classes=""), 422, "classes: "),
        (form(top_k=[1, 2]), 422, "top_k: given 2 times"),
        (form(topk=1), 422, "topk: unknown parameter; there are top_k, window, stride, classes, masks"),
        (form(b"x" * 2000), 413, "larger than 0.001 MB"),
        (form(classes=["a" * 200] * 6000), 413, "fields of the form"),
    ],
)
def test_bad_form_is_refused(make_app, run, body, status, message):
    reply = run(post_form(make_app(limits={"upload_megabytes": 0.001}), body))
    assert reply.status == status
    assert message in (reply.json.get("error") or "")


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        ({"content-type": "video/mp4"}, 415, "send a form"),
        ({"content-type": ""}, 415, "send a form"),
        ({"content-type": "multipart/form-data"}, 422, "no boundary"),
        ({"content-encoding": "gzip"}, 415, "uncompressed"),
        ({"content-length": "999999999999"}, 413, "larger than the limit"),
    ],
)
def test_bad_headers_are_refused_before_the_body(make_app, service, run, headers, status, message):
    reply = run(post_form(make_app(), headers=headers))
    assert reply.status == status
    assert message in reply.error
    assert not service.received


def test_upload_without_length_is_stopped_at_the_limit(make_app, run):
    """The first half of the body is refused, and the rest is dropped after the answer."""
    head = form(b"x" * 1500, end=False)[:-2]
    statuses = []
    app = make_app(limits={"upload_megabytes": 0.001})
    reply = run(post_form(app, chunks=[head, b"x" * 10_000], on_start=statuses.append))
    assert (reply.status, statuses) == (413, [413])


def test_endless_bytes_after_a_form_are_stopped(make_app, run):
    reply = run(post_form(make_app(limits={"upload_megabytes": 0.001}), chunks=[form(), b"x" * 3_000_000]))
    assert reply.status == 413


@pytest.mark.parametrize("limits", [{"stall_seconds": 0.02}, {"upload_seconds": 0.02}])
def test_slow_upload_is_refused(make_app, monkeypatch, run, limits):
    monkeypatch.setattr("evclip_ray.deploy.server.guards._LINGER_SECONDS", 0.01)
    reply = run(post_form(make_app(limits=limits), form(end=False), then="stall"))
    assert reply.status == 408
    assert "the upload" in reply.error
    assert reply.headers["connection"] == "close"


def test_client_that_goes_away_leaves_no_file(make_app, service, run):
    app = make_app()
    run(post_form(app, form(end=False), then="gone"))
    assert not service.received
    metrics = run(send(app, "/metrics")).body.decode()
    assert 'evclip_ray_requests_total{status="499"} 1.0' in metrics


def test_cancelled_request_leaves_no_file(make_app, service, run):
    async def cancel():
        service.gate = asyncio.Event()
        task = asyncio.create_task(post_form(app))
        while not service.received:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    app = make_app()
    run(cancel())


def test_requests_above_the_limit_are_sent_away(make_app, service, run):
    async def three():
        service.gate = asyncio.Event()
        app = make_app(limits={"requests": 2})
        first = [asyncio.create_task(post_form(app)) for _ in range(2)]
        while len(service.received) < 2:
            await asyncio.sleep(0)
        third = await post_form(app)
        health = await send(app, "/healthz")
        service.gate.set()
        replies = await asyncio.gather(*first)
        return third, health, replies, await post_form(app)

    third, health, replies, after = run(three())
    assert (third.status, third.headers["retry-after"]) == (503, "2")
    assert health.json == {"status": "ok"}
    assert [reply.status for reply in (*replies, after)] == [200] * 3


def test_refusal_of_the_recognizer_is_answered(make_app, service, run):
    service.error = Refusal(422, "my.mp4: has no video stream")
    reply = run(post_form(make_app()))
    assert (reply.status, reply.error) == (422, "my.mp4: has no video stream")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RuntimeError("a secret path"), 500, "internal error"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 503, "the disk is full"),
    ],
)
def test_error_of_the_server_is_not_shown(make_app, service, run, error, status, message):
    statuses = []
    service.error = error
    # A server logs the error, which the app raises after its answer.
    with pytest.raises(type(error)):
        run(post_form(make_app(), on_start=statuses.append))
    assert statuses == [status]


@pytest.mark.parametrize(
    ("path", "method", "needs_token"),
    [("/predict", "POST", True), ("/info", "GET", True), ("/metrics", "GET", True), ("/nothing", "GET", True),
     ("/", "GET", False), ("/healthz", "GET", False), ("/docs", "GET", False), ("/openapi.json", "GET", False),
     ("/page/app.js", "GET", False), ("/page/app.css", "GET", False)],
)  # fmt: skip
def test_token_is_needed_except_for_the_page(make_app, run, path, method, needs_token):
    app = make_app(token=TOKEN, host="0.0.0.0")
    for given in (None, "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN} ", "Bearer \xe9"):
        headers = {} if given is None else {"authorization": given}
        reply = run(send(app, path, method=method, headers=headers))
        assert (reply.status == 401) == needs_token
        assert ("www-authenticate" in reply.headers) == needs_token
    right = {"authorization": f"Bearer {TOKEN}", "host": "example.org", "origin": "https://example.org"}
    assert run(send(app, path, method=method, headers=right)).status != 401


@pytest.mark.parametrize(
    ("headers", "settings", "status"),
    [
        ({"origin": "http://localhost"}, {}, 200),
        ({"origin": "https://evil.example"}, {}, 403),
        ({"origin": "null"}, {}, 403),
        ({"host": "evil.example", "origin": "http://evil.example"}, {}, 403),
        ({"host": "127.0.0.1:8000"}, {}, 200),
        ({"host": "[::1]:8000"}, {}, 200),
        ({"host": "["}, {}, 403),
        ({"host": "server.lan"}, {"host": "0.0.0.0", "no_token": True}, 200),
    ],
)
def test_pages_of_others_cannot_use_a_server_without_token(make_app, run, headers, settings, status):
    assert run(post_form(make_app(**settings), headers=headers)).status == status


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 422, "not JSON"),
        (b"[" * 100_000, 422, "not JSON"),
        ([], 422, "must be an object"),
        ({"top_k": 1}, 422, 'needs a text "url"'),
        ({"url": 3}, 422, 'needs a text "url"'),
        ({"url": "https://host/a.mp4"}, 403, "the server allows no URLs"),
        ({"url": "https://host/a.mp4", "classes": []}, 422, "classes: "),
        (b" " * 1_100_000, 413, "larger than"),
    ],
)
def test_bad_json_is_refused(make_app, run, body, status, message):
    reply = run(post_json(make_app(), body))
    assert reply.status == status
    assert message in reply.error


def test_responses_have_a_strict_policy(make_app, run):
    app = make_app()
    for path in ("/", "/docs", "/page/app.js", "/nothing"):
        headers = run(send(app, path)).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"


class _Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.inline = [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.links += [given[name] for name in ("src", "href") if name in given]
        self.inline += [name for name in given if name == "style" or name.startswith("on")]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere(make_app, run, path):
    app = make_app()
    parser = _Links()
    parser.feed(run(send(app, path)).body.decode())
    assert parser.links
    assert not parser.inline
    for link in parser.links:
        assert link == "data:," or run(send(app, "/" + link.removeprefix("."))).status == 200


def test_openapi_describes_the_streamed_form(make_app, run):
    app = make_app()
    operation = run(send(app, "/openapi.json")).json["paths"]["/predict"]["post"]
    form_schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form_schema["properties"]) == {"video", "top_k", "window", "stride", "classes", "masks"}
    assert {"401", "403", "408", "413", "415", "422", "503"} <= set(operation["responses"])
    assert "at least 1, at most 1000, default 5" in run(send(app, "/docs")).body.decode()


def test_metrics_count_requests_by_status(make_app, run):
    app = make_app()
    run(post_form(app))
    run(post_form(app, form(b"")))
    reply = run(send(app, "/metrics"))
    assert reply.headers["content-type"].startswith("text/plain")
    text = reply.body.decode()
    assert 'evclip_ray_requests_total{status="200"} 1.0' in text
    assert 'evclip_ray_requests_total{status="422"} 1.0' in text
    assert 'evclip_ray_request_seconds_bucket{le="+Inf",status="200"} 1.0' in text
    assert "evclip_ray_upload_bytes_total 7.0" in text
    assert "evclip_ray_requests_running 0.0" in text


@pytest.mark.parametrize("name", ["../../etc/passwd", "C:\\\\videos\\\\my.mp4", "a\x00b", "x" * 2000, ""])
def test_name_of_an_upload_is_only_text(make_app, run, name):
    reply = run(post_form(make_app(), form(name=name)))
    assert reply.status == 200
    assert "/" not in reply.json["video"]
    assert 0 < len(reply.json["video"]) <= 255
