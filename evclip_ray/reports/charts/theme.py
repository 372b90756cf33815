"""Colours and marks of the charts, for light and dark pages and for colour-blind readers.

Categories have the colours of Okabe and Ito. Amounts have viridis, without the end that is close to the
colour of the page.
"""

from typing import Any

from evclip_ray.records import TrialState

LIGHT_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07C00", "#3A8FC4", "#555555")
DARK_COLOURS = ("#56B4E9", "#FF8A3D", "#2BC79B", "#E59AC4", "#E69F00", "#F0E442", "#BBBBBB")
STATE_SHAPES = {
    TrialState.COMPLETE.value: "circle",
    TrialState.STOPPED.value: "triangle-down",
    TrialState.DIVERGED.value: "cross",
    TrialState.FAILED.value: "square",
    TrialState.RUNNING.value: "diamond",
    TrialState.PAUSED.value: "triangle-right",
}
"""Shape of a trial's mark by its state, in the order of the legend."""

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"


def vega_config(scheme: str) -> dict[str, Any]:
    """Return the Vega-Lite configuration of all charts for the colour scheme "light" or "dark"."""
    dark = scheme == "dark"
    ink, faint, grid = ("#E8E8E8", "#9AA0A6", "#3A3D42") if dark else ("#1F2328", "#6A7178", "#E3E5E8")
    paper = "#16181B" if dark else "#FFFFFF"
    colours = DARK_COLOURS if dark else LIGHT_COLOURS
    # Points and thin lines have a contrast of 3 to 1 with the page. The cells of a matrix need less.
    ramp = {"scheme": "viridis", "extent": [0.35, 1.0] if dark else [0.0, 0.58]}
    cells = {"scheme": "viridis", "extent": [0.25, 1.0] if dark else [0.0, 0.88]}
    return {
        "background": None,
        "padding": {"left": 12, "right": 12, "top": 4, "bottom": 4},
        "font": _FONT,
        "view": {"stroke": None},
        "axis": {
            "labelColor": ink, "titleColor": ink, "gridColor": grid, "domainColor": faint, "tickColor": faint,
            "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 500, "labelLimit": 0,
            "labelOverlap": True, "labelSeparation": 6, "titlePadding": 8,
        },
        "legend": {
            "labelColor": ink, "titleColor": ink, "labelFontSize": 12, "titleFontSize": 12,
            "titleFontWeight": 500, "orient": "top", "labelLimit": 200, "columns": 4, "gradientLength": 140,
            "symbolBaseFillColor": faint, "symbolBaseStrokeColor": faint,
        },
        "title": {"color": ink, "anchor": "start", "fontSize": 14, "fontWeight": 600},
        "rule": {"color": faint},
        "text": {"color": ink, "fontSize": 12},
        "mark": {"color": colours[0], "tooltip": True},
        "range": {
            # The best of several comes first, in the colour that the best has in all charts.
            "category": [colours[1], colours[0], *colours[2:]], "diverging": [colours[0], colours[1], faint],
            "ramp": ramp, "heatmap": cells, "ordinal": ramp,
        },
        "style": {
            "best": {"color": colours[1], "strokeWidth": 2.5, "opacity": 1},
            "band": {"color": colours[1], "opacity": 0.15},
            "baseline": {"color": faint, "strokeDash": [6, 4], "strokeWidth": 1.5, "opacity": 1},
            "label": {"color": faint, "fontSize": 11},
            "halo": {"color": paper, "stroke": paper, "strokeWidth": 4, "strokeJoin": "round"},
            "post": {"color": faint, "strokeWidth": 1},
            "before": {"color": faint},
            "after": {"color": colours[0]},
        },
    }  # fmt: skip
