"""Charts of an evaluation: accuracy of each class before and after, and the confusion matrix."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from evclip_ray.reports.charts import study_data
from evclip_ray.reports.charts.labels import columns, name_axis, short_names
from evclip_ray.reports.charts.roles import Roles
from evclip_ray.reports.charts.study import named, tips
from evclip_ray.reports.document import Chart

_FIFTHS = [0, 0.2, 0.4, 0.6, 0.8, 1]
_COUNTED = 20
"""Number of classes up to which the cells of a confusion matrix show their counts."""

_ALL_NAMES = 40
"""Number of classes up to which every row and column of a confusion matrix has a label, and rows are high."""

_PAIRED = 12
"""Number of classes up to which the two charts stand next to each other."""

_LETTER = 6.6
"""Mean width of a letter of a label in pixels, rounded up."""


def gains_chart(evaluation: str, per_class: pd.DataFrame, sources: Sequence[str]) -> Chart:
    """Return the chart of the accuracy of every class before and after.

    Args:
        evaluation: Name of the evaluation, for the name of the chart.
        per_class: Table `per_class.csv`.
        sources: Files that the numbers come from.
    """
    data, name = study_data.gains(per_class), f"gains_{evaluation}"
    classes = list(data["class"])
    roles = Roles(before="zero-shot CLIP", after="adapted (95 %)")
    base = alt.Chart(named(name)).encode(
        y=alt.Y("class:N", title=None, sort=classes, axis=name_axis(classes))
    )
    accuracies = alt.X(
        "zero_shot:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(values=_FIFTHS)
    )
    tooltip = tips("class:N", "videos:Q", "zero_shot:Q", "adapted:Q", "gain:Q", gain="+.3f", videos="d")
    link = base.mark_rule(strokeWidth=2).encode(x=accuracies, x2="adapted:Q")
    interval = base.mark_rule(style="after", opacity=0.35, strokeWidth=7).encode(
        x="adapted_low:Q", x2="adapted_high:Q"
    )
    before = roles.points(base.mark_point(size=60, filled=True, opacity=1), "before").encode(
        x=accuracies, tooltip=tooltip
    )
    after = roles.points(base.mark_point(size=70, filled=True, opacity=1), "after").encode(
        x="adapted:Q", tooltip=tooltip
    )
    is_paired = len(data) <= _PAIRED
    row = 36 if is_paired else 24 if len(data) <= _ALL_NAMES else 16
    return Chart(
        name,
        "Accuracy of each class",
        alt.layer(interval, link, before, after),
        {name: data},
        "The largest gain is at the top. The interval is Wilson's.",
        sources,
        per_row=2 if is_paired else 1,
        height=max(190, row * len(data) + 90),
    )


def confusion_chart(evaluation: str, table: pd.DataFrame, sources: Sequence[str]) -> Chart:
    """Return the confusion matrix of the adapted CLIP.

    Args:
        evaluation: Name of the evaluation, for the name of the chart.
        table: Table `confusion.csv`.
        sources: Files that the numbers come from.
    """
    name, data, order = f"confusion_{evaluation}", study_data.confusion(table), list(table.columns[1:])
    overlap = len(order) > _ALL_NAMES
    base = alt.Chart(named(name)).encode(
        x=alt.X(
            "predicted:N",
            title="predicted",
            sort=order,
            axis=name_axis(order, labelAngle=-45, labelOverlap=overlap),
        ),
        y=alt.Y("true:N", title="true", sort=order, axis=name_axis(order, labelOverlap=overlap)),
    )
    shade = alt.Color("share:Q", title="share of the row", scale=alt.Scale(range="heatmap", domain=[0, 1]))
    cells = base.mark_rect().encode(
        color=shade, tooltip=tips("true:N", "predicted:N", "videos:Q", "share:Q", share=".0%", videos="d")
    )
    layers = [cells]
    if len(order) <= _COUNTED:
        # The shades differ between light and dark pages, so the ink follows their luminance.
        ink = alt.condition(
            "luminance(scale('color', datum.share)) > 0.18", alt.value("#111111"), alt.value("#ffffff")
        )
        layers.append(
            base.transform_filter("datum.videos > 0")
            .mark_text(fontSize=12)
            .encode(text="videos:Q", color=ink)
        )
    # Labels, the title of the axis, and the padding of the chart.
    margin = round(_LETTER * max(map(columns, short_names(order).values()), default=0)) + 60
    side = max(160, min(720, 42 * len(order)))
    return Chart(
        name,
        "Confusion matrix of the adapted CLIP",
        alt.layer(*layers),
        {name: data},
        "Rows are true classes, columns are predictions.",
        sources,
        per_row=2 if len(order) <= _PAIRED else 1,
        height=side + round(0.7 * margin) + 80,
        width=margin + min(side, 26 * len(order)),
        square=(side, margin),
    )
