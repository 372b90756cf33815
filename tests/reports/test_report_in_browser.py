"""Reports in a browser: drawn charts, layout, colours, keyboard. Covers `render` with its page files."""

import pytest
from made_studies import write_calibration, write_evaluation, write_ladder, write_study

from evclip_ray.reports.render.write import write_report
from evclip_ray.reports.sections.evaluation import Evaluation
from evclip_ray.reports.sections.ladder import ladder_report
from evclip_ray.reports.sections.study import study_report
from evclip_ray.results import Ladder, Study

DRAWN = (
    "[...document.querySelectorAll('[data-chart]')].every(e => ['light', 'dark'].includes(e.dataset.drawn))"
)
EMPTY = """[...document.querySelectorAll('[data-chart]')].filter(e => {
  const held = e.querySelector('canvas, svg');
  return !held || held.getBoundingClientRect().width < 100 || held.getBoundingClientRect().height < 80;
}).map(e => e.dataset.chart)"""
MISSING = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
BEYOND = "document.documentElement.scrollWidth - document.documentElement.clientWidth"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page_of_study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    classes = ("hug", "<b>kick</b>", "</script>", "a class with quite a long name indeed")
    write_study(root, trials=30, epochs=8, states=["stopped", "failed", "diverged"], classes=classes)
    write_evaluation(root / "best-test", split="test", classes=classes, masks=True)
    write_calibration(root / "best-test", classes)
    report = study_report(Study.load(root), evaluations=Evaluation.load_all(root / "best-test"))
    return write_report(report, root / "report.html", root=root)[0]


@pytest.fixture(scope="module")
def page_of_ladder(tmp_path_factory):
    root = write_ladder(tmp_path_factory.mktemp("ladder"), failed=("middle",))
    return write_report(ladder_report(Ladder.load(root)), root / "report.html", root=root)[0]


@pytest.fixture
def open_page(browser):
    """Return a function that opens a page offline and draws all of it.

    It returns the page and the messages of the console, which grow while the page is used.
    """
    contexts = []

    def show(path, *, width=1400, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        page, messages = context.new_page(), []
        page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: messages.append(f"error: {error}"))
        page.on("requestfailed", lambda request: messages.append(f"failed: {request.url[:80]}"))
        page.goto(path.as_uri())
        for chart in page.query_selector_all("[data-chart]"):
            chart.scroll_into_view_if_needed()
        page.wait_for_function(DRAWN, timeout=60_000)
        return page, messages

    yield show
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1400])
def test_study_is_drawn_at_all_widths_and_schemes(page_of_study, open_page, width, scheme):
    page, messages = open_page(page_of_study, width=width, scheme=scheme)
    assert messages == []
    assert page.evaluate(BEYOND) <= 0
    assert page.evaluate(EMPTY) == []
    assert page.evaluate(MISSING) == []
    assert page.evaluate("document.documentElement.dataset.scheme") == scheme


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
def test_ladder_is_drawn_at_all_widths(page_of_ladder, open_page, width, scheme):
    page, messages = open_page(page_of_ladder, width=width, scheme=scheme)
    assert messages == []
    assert page.evaluate(BEYOND) <= 0
    assert page.evaluate(EMPTY) == []


@pytest.mark.parametrize(
    "facts",
    [
        {"trials": 0},
        {"trials": 1},
        {"trials": 1, "epochs": 1},
        {"trials": 2, "states": ["failed", "failed"]},
        {"trials": 3, "epochs": 6, "states": ["diverged"] * 3, "nan_from": 3},
    ],
)
def test_tiny_study_is_drawn_without_messages(tmp_path, open_page, facts):
    root = write_study(tmp_path, **facts)
    page, messages = open_page(
        write_report(study_report(Study.load(root)), root / "report.html", root=root)[0]
    )
    assert messages == []
    assert page.evaluate(BEYOND) <= 0
    assert page.evaluate(EMPTY) == []


@pytest.mark.parametrize(
    "facts", [{"steps": ("only",)}, {"failed": ("small", "middle", "large")}, {"trials": 1}]
)
def test_tiny_ladder_is_drawn_without_messages(tmp_path, open_page, facts):
    root = write_ladder(tmp_path, **facts)
    page, messages = open_page(
        write_report(ladder_report(Ladder.load(root)), root / "report.html", root=root)[0]
    )
    assert messages == []
    assert page.evaluate(EMPTY) == []


def test_axis_of_whole_numbers_has_each_once(tmp_path, open_page):
    root = write_study(tmp_path, trials=3, epochs=2)
    page, _ = open_page(write_report(study_report(Study.load(root)), root / "report.html", root=root)[0])
    for chart, expected in (("history", ["0", "1", "2"]), ("curves_top1", ["1", "2"])):
        labels = page.eval_on_selector_all(
            f"[data-chart={chart}] .role-axis-label text", "all => all.map(e => e.textContent)"
        )
        whole = [label for label in labels if "." not in label]
        assert whole == expected, chart


def test_button_changes_colours_of_page_and_charts(page_of_study, open_page):
    page, messages = open_page(page_of_study, scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(paper)
    page.keyboard.press("Tab")
    page.focus("#scheme")
    page.keyboard.press("Enter")  # system -> light
    page.keyboard.press("Enter")  # light -> dark
    page.wait_for_function(
        "[...document.querySelectorAll('[data-chart]')].every(e => e.dataset.drawn === 'dark')"
    )
    assert page.evaluate(paper) != before
    assert messages == []


def test_numbers_of_a_chart_open_by_keyboard(page_of_study, open_page):
    page, messages = open_page(page_of_study)
    summary = page.locator("figure:has([data-chart=history]) summary").last
    summary.focus()
    page.keyboard.press("Enter")
    rows = page.locator("figure:has([data-chart=history]) table tbody tr")
    rows.first.wait_for()
    assert rows.count() == 29
    assert messages == []


def test_names_with_markup_are_shown_as_text(page_of_study, open_page):
    page, _ = open_page(page_of_study)
    assert "<b>kick</b>" in page.inner_text("#conditions")
    assert page.locator("#conditions b").count() == 0
