"""Reports in a browser: drawn charts, layout, colours, keyboard. Covers `render` with its page files."""

import pytest
from made_studies import write_calibration, write_evaluation, write_ladder, write_masks, write_study

from evclip_ray.reports.document import Note, Section
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
CUT = """[...document.querySelectorAll('[data-chart] svg text')].filter(e => {
  const text = e.getBoundingClientRect(), chart = e.closest('svg').getBoundingClientRect();
  return text.width && (text.left < chart.left - 1 || text.right > chart.right + 1
    || text.top < chart.top - 1 || text.bottom > chart.bottom + 1);
}).map(e => `${e.closest('[data-chart]').dataset.chart}: ${e.textContent}`)"""
BEYOND = "document.documentElement.scrollWidth - document.documentElement.clientWidth"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page_of_study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    limbs = [f"bending the right {limb} slowly to the side" for limb in ("arm", "leg")]
    classes = ("hug", "<b>kick</b>", "</script>", *limbs)
    write_study(root, trials=30, epochs=8, states=["stopped", "failed", "diverged"], classes=classes)
    write_evaluation(root / "best-test", split="test", classes=classes)
    write_masks(root / "best-test" / "masks", classes, count=5)
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
    assert page.evaluate(CUT) == []
    assert page.evaluate("document.documentElement.dataset.scheme") == scheme


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
def test_ladder_is_drawn_at_all_widths(page_of_ladder, open_page, width, scheme):
    page, messages = open_page(page_of_ladder, width=width, scheme=scheme)
    assert messages == []
    assert page.evaluate(BEYOND) <= 0
    assert page.evaluate(EMPTY) == []
    assert page.evaluate(CUT) == []


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


def test_section_of_any_name_is_found(tmp_path, open_page):
    root = write_study(tmp_path, trials=1)
    more = [Section(f"shift_{name}", name, [Note(name)]) for name in ("on % a 'stage'", "动作 é")]
    page, messages = open_page(
        write_report(study_report(Study.load(root), more=more), root / "report.html", root=root)[0]
    )
    page.click("nav a >> text=动作")
    assert messages == []


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
    # The entry of the navigation opens the fold of its section.
    page.click("nav a[href='#conditions']")
    assert "<b>kick</b>" in page.inner_text("#conditions")
    assert page.locator("#conditions b").count() == 0


def test_navigation_is_whole_on_a_wide_screen(page_of_study, page_of_ladder, open_page):
    for path in (page_of_study, page_of_ladder):
        page, _ = open_page(path)
        assert not page.is_visible("#menu")
        edges = page.eval_on_selector_all("nav a", "all => all.map(e => e.getBoundingClientRect().right)")
        assert max(edges) <= 1400
        assert page.evaluate("(nav => nav.scrollWidth - nav.clientWidth)(document.querySelector('nav'))") <= 0


def test_navigation_is_a_menu_on_a_phone(page_of_study, open_page):
    page, messages = open_page(page_of_study, width=390)
    assert not page.is_visible("nav a")
    page.focus("#menu")
    page.keyboard.press("Enter")
    assert page.get_attribute("#menu", "aria-expanded") == "true"
    page.keyboard.press("Escape")
    assert not page.is_visible("nav a")
    page.keyboard.press("Enter")
    page.click("nav a[href='#curves']")
    page.wait_for_function("document.getElementById('menu').textContent === 'Sections: Learning curves'")
    assert not page.is_visible("nav a")
    assert messages == []


def test_table_is_sorted_and_filtered_by_keyboard(page_of_study, open_page):
    page, messages = open_page(page_of_study)
    table = page.locator("[data-sorts=leaderboard]")

    def column(place):
        return table.locator(f"tbody td:nth-child({place})").all_text_contents()

    headings = table.locator("thead th").all_text_contents()
    rate = headings.index("lr") + 1
    assert column(1) == [str(rank) for rank in range(1, 21)]
    table.locator("thead th button", has_text="lr").focus()
    for direction in ("ascending", "descending"):
        page.keyboard.press("Enter")
        assert table.locator("th[aria-sort]").get_attribute("aria-sort") == direction
        rates = [float(text) for text in column(rate)]
        # All 30 rows are sorted, not only the 20 that were displayed.
        assert rates == sorted(rates, reverse=direction == "descending")
        assert not set(column(1)) <= {str(rank) for rank in range(1, 21)}
    page.keyboard.press("Enter")
    assert table.locator("th[aria-sort]").count() == 0
    assert column(1)[0] == "1"
    table.get_by_role("searchbox").fill("stopped")
    assert column(3) == ["stopped"]
    assert table.get_by_role("status").text_content() == "1 of 30 rows"
    # A setting that a trial does not have comes last in both directions.
    table.get_by_role("searchbox").fill("")
    table.locator("thead th button", has_text="mask.depth").dblclick()
    depths = column(headings.index("mask.depth") + 1)
    assert depths[0] == "4"
    assert depths[-1] == "–"
    assert messages == []


def test_box_that_scrolls_has_a_sign(page_of_study, open_page):
    box = "[data-sorts=leaderboard] > .scroll"
    page, _ = open_page(page_of_study, width=390)
    assert page.get_attribute(box, "data-more") == "right"
    assert page.is_visible(f"{box} + .hint")
    page.eval_on_selector(box, "e => e.scrollTo(e.scrollWidth, 0)")
    page.wait_for_function(f"document.querySelector('{box}').dataset.more === 'left'")
    page, _ = open_page(page_of_study, width=1400)
    assert not page.is_visible(f"{box} + .hint")
    # A box that shows all of its content is no stop of the tab key.
    assert page.get_attribute(box, "tabindex") is None


@pytest.mark.parametrize(("width", "per_row"), [(1400, 3), (390, 1)])
def test_masks_are_a_grid_with_a_fold(page_of_study, open_page, width, per_row):
    page, _ = open_page(page_of_study, width=width)
    tops = "all => all.map(e => Math.round(e.getBoundingClientRect().top))"
    articles = page.eval_on_selector_all(".pictures > .grid > article", tops)
    assert [articles.count(top) for top in sorted(set(articles))] == [per_row] * (3 // per_row)
    images = page.eval_on_selector_all(".pictures > .grid > article:first-child > .images img", tops)
    assert len(images) == 3
    assert len(set(images)) == 1
    fold = page.locator(".pictures > details")
    assert fold.locator("summary").first.text_content() == "2 more videos"
    assert not fold.locator("article").first.is_visible()


@pytest.mark.parametrize("width", [1400, 390])
def test_confusion_matrix_is_square_with_different_names(page_of_study, open_page, width):
    page, _ = open_page(page_of_study, width=width)
    chart = "[data-chart=confusion_test]"
    box = page.eval_on_selector(
        f"{chart} .mark-rect", "e => (({ width, height }) => [width, height])(e.getBoundingClientRect())"
    )
    assert box[0] == pytest.approx(box[1], abs=1)
    labels = page.eval_on_selector_all(f"{chart} .role-axis-label text", "all => all.map(e => e.textContent)")
    assert sorted(labels) == sorted(2 * list(set(labels)))
    assert len(set(labels)) == 5
    assert max(map(len, labels)) <= 28


def test_learning_curves_name_their_lines(page_of_study, open_page):
    page, _ = open_page(page_of_study)
    texts = page.eval_on_selector_all(
        "[data-chart=curves_top1] svg text", "all => all.map(e => e.textContent)"
    )
    assert {"zero-shot CLIP", "chance", "other trials"} <= set(texts)
    assert sum(text.endswith(", the best") for text in texts) == 1


def test_print_has_conditions_and_no_controls(page_of_study, open_page):
    page, messages = open_page(page_of_study, width=768)
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.is_visible("#conditions table")
    for control in ("nav", "#scheme", ".find", ".pictures details", "[data-sorts] details"):
        assert not page.locator(control).first.is_visible(), control
    assert messages == []
