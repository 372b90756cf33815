import re

import matplotlib
import pytest

from evclip_ray.reports.charts.theme import vega_config
from evclip_ray.reports.render.html import page_file

PAPERS = {"light": "#FFFFFF", "dark": "#16181B"}


def luminance(colour):
    """Return the relative luminance of WCAG 2."""
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(colour, paper):
    bright, dark = sorted([luminance(colour), luminance(paper)], reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("scheme", "paper"), PAPERS.items())
def test_text_and_marks_of_charts_have_contrast(scheme, paper):
    config = vega_config(scheme)
    text = [config["axis"]["labelColor"], config["legend"]["labelColor"], config["style"]["label"]["color"]]
    marks = [*config["range"]["category"], *config["range"]["diverging"], config["rule"]["color"]]
    assert min(contrast(colour, paper) for colour in text) >= 4.5
    viridis = matplotlib.colormaps["viridis"]
    marks += [matplotlib.colors.to_hex(viridis(place)) for place in config["range"]["ramp"]["extent"]]
    # WCAG asks for 3 to 1 for graphical objects.
    assert min(contrast(colour, paper) for colour in marks) >= 3


@pytest.mark.parametrize("scheme", PAPERS)
def test_text_of_the_page_has_contrast(scheme):
    blocks = re.findall(r":root(\[data-scheme=\"dark\"\])? \{([^}]*--paper[^}]*)\}", page_file("report.css"))
    (block,) = [block for is_dark, block in blocks if bool(is_dark) == (scheme == "dark")]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", block))
    assert colours["paper"].upper() == PAPERS[scheme]
    for text in ("ink", "faint", "link"):
        assert min(contrast(colours[text], colours[paper]) for paper in ("paper", "panel")) >= 4.5, text
    assert contrast(colours["loud"], colours["loud-paper"]) >= 4.5
    assert contrast(colours["edge"], colours["paper"]) >= 3
