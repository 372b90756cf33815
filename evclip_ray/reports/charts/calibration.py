"""Charts of a calibration: reliability diagram, and risk against coverage."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from evclip_ray.reports.charts.roles import Roles
from evclip_ray.reports.charts.study import named, tips
from evclip_ray.reports.document import Chart

_FIFTHS = [0, 0.2, 0.4, 0.6, 0.8, 1]
_MAX_ROWS = 500
"""Number of thresholds that are drawn. The CSV file of the evaluation has all."""


def reliability_chart(name: str, bins: pd.DataFrame, sources: Sequence[str]) -> Chart:
    """Return the accuracy in each bin of confidence, before and after.

    Args:
        name: Name of the chart.
        bins: Table `reliability.csv` of an evaluation.
        sources: Files that the numbers come from.
    """
    x = _share(alt.X, "confidence", "mean probability of the best class")
    y = _share(alt.Y, "accuracy", "accuracy")
    base = alt.Chart(named(name)).encode(x=x, y=y)
    diagonal = alt.Chart(named(f"{name}_diagonal")).mark_line(style="baseline", tooltip=False)
    tooltip = tips("scored:N", "videos:Q", "confidence:Q", "accuracy:Q", videos="d")
    size = alt.Size("videos:Q", legend=None, scale=alt.Scale(range=[25, 250], zero=True))
    layers = [diagonal.encode(x=x, y=y)]
    roles = Roles(before="before calibration", after="after calibration")
    for scored in ("before", "after"):
        rows = base.transform_filter(f"datum.scored == '{scored}'")
        layers.append(roles.lines(rows.mark_line(strokeWidth=1.5), scored))
        points = roles.points(rows.mark_point(filled=True, opacity=0.9), scored)
        layers.append(points.encode(size=size, tooltip=tooltip))
    caption = (
        "On the dashed line, a video with probability 0.7 is right in 70 % of the cases. Below it, the model "
        "is overconfident. Large marks are bins of many videos."
    )
    data = {name: bins, f"{name}_diagonal": pd.DataFrame({"confidence": [0, 1], "accuracy": [0, 1]})}
    return Chart(
        name, "Reliability diagram", alt.layer(*layers), data, caption, sources, per_row=2, height=340
    )


def risk_chart(
    name: str, curve: pd.DataFrame, rejection: dict[str, Any] | None, sources: Sequence[str]
) -> Chart:
    """Return the error among accepted videos against their share, with the threshold of the checkpoint.

    Args:
        name: Name of the chart.
        curve: Table `risk_coverage.csv` of an evaluation.
        rejection: Measures of the threshold, see `CalibrationMeasures.record`; None without one.
        sources: Files that the numbers come from.
    """
    rows = np.unique(np.linspace(0, len(curve) - 1, num=min(len(curve), _MAX_ROWS)).astype(int))
    data = {name: curve.iloc[rows]}
    x = _share(alt.X, "coverage", "share of accepted videos")
    y = _share(alt.Y, "risk", "error among them")
    tooltip = tips("threshold:Q", "accepted:Q", "coverage:Q", "risk:Q", accepted="d")
    roles = Roles(after="error at each coverage", best="chosen threshold")
    line = alt.Chart(named(name)).mark_line()
    layers = [roles.lines(line, "after").encode(x=x, y=y, tooltip=tooltip)]
    caption = (
        "From left to right, the threshold falls and more videos are accepted. A good confidence puts the "
        "right videos first, so that the error grows from left to right."
    )
    if rejection and rejection["risk"] is not None:
        low, high = rejection["risk_interval"]
        chosen = {
            "threshold": rejection["unknown_below"],
            "coverage": rejection["coverage"],
            "risk": rejection["risk"],
            "low": low,
            "high": high,
        }
        data[f"{name}_chosen"] = pd.DataFrame([chosen])
        base = alt.Chart(named(f"{name}_chosen")).encode(x=x)
        layers.append(base.mark_rule(style="best", strokeWidth=2).encode(y="low:Q", y2="high:Q"))
        tooltip = tips("threshold:Q", "coverage:Q", "risk:Q", "low:Q", "high:Q")
        chosen_mark = roles.lines(base.mark_point(size=90, filled=True, opacity=1), "best")
        layers.append(chosen_mark.encode(y="risk:Q", tooltip=tooltip))
        caption += " The error at the threshold of the checkpoint has its 95 % interval."
        if rejection["max_risk"] is not None:
            data[f"{name}_tolerated"] = pd.DataFrame({"risk": [rejection["max_risk"]]})
            tolerated = alt.Chart(named(f"{name}_tolerated"))
            layers.insert(0, tolerated.mark_rule(style="baseline", tooltip=False).encode(y=y))
            caption += " The dashed line is the error that was tolerated when it was chosen on validation."
    return Chart(
        name, "Error against coverage", alt.layer(*layers), data, caption, sources, per_row=2, height=340
    )


def _share(channel: type[Any], field: str, title: str) -> Any:
    return channel(f"{field}:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(values=_FIFTHS))
