"""The web page in a headless Chromium, with the app in a thread."""

import asyncio
import socket
import threading
import time

import pytest
import uvicorn

from evclip_ray.deploy.recognizer import Recognizer
from evclip_ray.deploy.server.app import create_app
from evclip_ray.deploy.server.limits import Limits, ServerSettings
from evclip_ray.deploy.server.metrics import Metrics
from evclip_ray.deploy.server.service import RecognitionService
from evclip_ray.deploy.server.uploads import UploadFolder

pytestmark = pytest.mark.slow

TOKEN = "a-secret-token"
BEYOND = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
CLASSES = ("<b>walk</b>", "run", "wave", "open_the_door_of_a_fridge_with_the_left_hand")


@pytest.fixture(scope="module")
def serve(make_checkpoint, tmp_path_factory):
    """Return a function that serves a checkpoint and returns the URL."""
    servers = []

    def start(*, token=None):
        metrics, settings = Metrics(), ServerSettings(checkpoint="best", limits=Limits(upload_megabytes=1))
        recognizer = Recognizer.load(make_checkpoint(classes=CLASSES), device="cpu")
        service = RecognitionService(recognizer, limits=settings.limits, metrics=metrics, decoders=1)
        folder = UploadFolder(tmp_path_factory.mktemp("uploads"))
        app = create_app(service, settings, folder, metrics, token=token)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.05)
        return f"http://127.0.0.1:{port}/"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(serve):
    return serve()


@pytest.fixture
def open_page(browser):
    """Return a function that opens the page; errors of the console fail the test."""
    contexts, problems = [], []

    def show(address, *, width=900, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        # Chromium also logs each refused request of its own accord.
        page.on("console", lambda line: problems.append(line.text) if "Policy" in line.text else None)
        own = ("blob:", "data:", address.rpartition("/")[0])
        page.on("request", lambda sent: None if sent.url.startswith(own) else problems.append(sent.url))
        page.goto(address)
        return page

    yield show
    for context in contexts:
        context.close()
    assert not problems


def upload(page, path, **settings):
    page.set_input_files("#file", path)
    if settings:
        page.click("summary")
    for name, value in settings.items():
        page.fill(f"#{name}", value)
    page.click("#send")


@pytest.mark.parametrize(("width", "scheme"), [(900, "light"), (900, "dark"), (360, "light")])
def test_upload_shows_timeline_probabilities_and_mask(open_page, address, videos, tmp_path, width, scheme):
    page = open_page(address, width=width, scheme=scheme)
    upload(page, videos[2], window="1", stride="0.5")
    page.wait_for_selector("#result:not([hidden])")
    assert page.inner_text("#result-title") == "2.mp4"
    assert "3.0 s, 75 frames" in page.inner_text("#summary")
    assert page.locator("#timeline button").count() == 5
    # Names are text, also where they look like HTML.
    assert page.locator("#bars tr").count() == 4
    assert "<b>walk</b>" in page.inner_text("#bars")
    assert page.evaluate("document.activeElement.id") == "result"
    widths = page.eval_on_selector_all("#bars .bar", "bars => bars.map(bar => bar.offsetWidth)")
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1]
    assert page.eval_on_selector("#overlay", "image => image.naturalWidth") > 50
    page.screenshot(path=tmp_path / f"page-{width}-{scheme}.png", full_page=True)
    # The third window by keyboard.
    page.focus("#timeline button:nth-child(3)")
    page.keyboard.press("Enter")
    assert "1.0 s to 2.0 s" in page.inner_text("#bars-title")
    assert page.get_attribute("#timeline button:nth-child(3)", "aria-pressed") == "true"
    assert page.evaluate(BEYOND) <= 0


def test_dropped_file_is_chosen(open_page, address):
    page = open_page(address)
    page.evaluate("""() => {
      const transfer = new DataTransfer();
      transfer.items.add(new File(["no video"], "dropped.mp4"));
      const event = new DragEvent("drop", {dataTransfer: transfer, bubbles: true});
      document.getElementById("drop").dispatchEvent(event);
    }""")
    assert "dropped.mp4" in page.inner_text("#status")
    page.click("#send")
    page.wait_for_selector("#error:not(:empty)")
    assert "dropped.mp4: is not a video that can be read" in page.inner_text("#error")
    assert page.is_hidden("#result")
    assert page.is_enabled("#send")


def test_errors_are_readable(open_page, address, tmp_path, videos):
    page = open_page(address)
    page.click("#send")
    assert page.inner_text("#error") == "Choose a video first."
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(2_500_000))
    upload(page, large)
    assert "this server takes at most 1 MB" in page.inner_text("#error")
    upload(page, videos[2], window="1", stride="0.001")
    page.locator("#error", has_text="raise the stride").wait_for()
    page.screenshot(path=tmp_path / "error.png")


def test_token_is_asked_for_and_used(open_page, serve, videos):
    page = open_page(serve(token=TOKEN))
    page.wait_for_selector("#token-row:not([hidden])")
    assert "needs a token" in page.inner_text("#model")
    upload(page, videos[0])
    page.wait_for_selector("#error:not(:empty)")
    assert page.inner_text("#error") == "The token is missing or wrong."
    page.fill("#token", TOKEN)
    page.keyboard.press("Tab")
    page.locator("#model", has_text="4 classes").wait_for()
    page.click("#send")
    page.wait_for_selector("#result:not([hidden])")


def test_api_page_is_readable_without_scripts(open_page, address, tmp_path):
    page = open_page(address + "docs", width=360)
    assert "POST /predict" in page.inner_text("main")
    assert page.evaluate(BEYOND) <= 0
    page.screenshot(path=tmp_path / "docs.png", full_page=True)


def test_controls_have_names(open_page, address):
    page = open_page(address)
    page.click("summary")
    unnamed = page.eval_on_selector_all(
        "input, textarea, button:not([hidden])",
        "all => all.filter(e => !(e.labels && e.labels.length) && !e.textContent.trim()).map(e => e.id)",
    )
    assert unnamed == []
