"""Charts of a study: history, slices, parallel coordinates, learning curves, importance.

The charts are Vega-Lite specifications made by Altair. The browser draws them with the copy of Vega that
vl-convert brings. The reasons for Vega-Lite:
- The report is one file. Vega takes 0.9 MB of it; plotly would take 4.6 MB.
- A thousand trials stay numbers with tooltips. As SVG by matplotlib, their curves take 10 MB and have none.
- A phone gets its own layout with letters of the same size.
- The colours follow the reader's scheme.

Charts with many marks are drawn on a canvas, others as SVG.
"""

from typing import Literal

import altair as alt
import pandas as pd

from evclip_ray.records import METRICS, TrialState
from evclip_ray.reports.charts import study_data
from evclip_ray.reports.charts.labels import log_ticks, name_axis, word_axis
from evclip_ray.reports.charts.roles import Roles
from evclip_ray.reports.charts.study_data import Axis
from evclip_ray.reports.charts.theme import STATE_SHAPES
from evclip_ray.reports.document import Chart
from evclip_ray.results import Study

TRIALS = "trials/*/history.jsonl"
TOP1 = METRICS["val_top1"].title

_MAX_INTERVALS = 40
"""Number of trials up to which every trial has its interval. The intervals of more trials overlap."""

_MAX_PAIRED_AXES = 4
"""Number of searched settings whose parallel coordinates fit into half the width of a page."""

_MAX_TICKS = 8
"""Number of whole numbers up to which each has a tick."""


def study_charts(study: Study) -> list[Chart]:
    """Return the charts that the trials of a study allow; none before a trial has a score."""
    if study.best is None:
        return []
    axes = study_data.axes(study)
    charts = [_history(study)]
    if "status" in study.importance and (study.importance["status"] == "ok").any():
        charts.append(_importance(study))
    if axes:
        charts.append(_parallel(study, is_paired=len(charts) == 1 and len(axes) <= _MAX_PAIRED_AXES))
    charts += [_slice(study, axis) for axis in axes]
    curves = study_data.curves(study)
    charts.append(_curves(study, curves, "val_top1", "curves_top1"))
    if study.epochs["val_loss"].notna().any():
        charts.append(_curves(study, curves, "val_loss", "curves_loss"))
    return charts


def named(name: str) -> alt.NamedData:
    """Return a reference to a table that the page contains."""
    return alt.NamedData(name=name)


def accuracy(field: str) -> alt.Y:
    """Return a vertical axis of accuracies."""
    scale, axis = alt.Scale(zero=False, nice=True), alt.Axis(format=".2f")
    return alt.Y(f"{field}:Q", title=TOP1, scale=scale, axis=axis)


def whole_axis(values: pd.Series) -> alt.Axis:
    """Return an axis of whole numbers. A short range has a tick for each number."""
    low, high = int(values.min()), int(values.max())
    if high - low < _MAX_TICKS:
        # By default Vega adds ticks at halves, which the format would round to the same label.
        return alt.Axis(format="d", values=list(range(low, high + 1)))
    return alt.Axis(format="d", tickMinStep=1)


def log_axis(values: pd.Series) -> alt.Axis:
    """Return a logarithmic axis with few ticks."""
    ticks = log_ticks(float(values.min()), float(values.max()))
    return alt.Axis(format="~g", tickCount=4) if ticks is None else alt.Axis(format="~g", values=ticks)


def state_shape(trials: pd.DataFrame) -> alt.Shape:
    """Return the trial's state as the shape of its mark. The legend lists the states if there are several."""
    present = [state for state in STATE_SHAPES if state in set(trials["state"])]
    scale = alt.Scale(domain=list(STATE_SHAPES), range=list(STATE_SHAPES.values()))
    legend = None if present == [TrialState.COMPLETE] else alt.Legend(values=present)
    return alt.Shape("state:N", title="state", scale=scale, legend=legend)


def tips(*fields: str, **formats: str) -> list[alt.Tooltip]:
    """Return the tooltip of a mark.

    Args:
        *fields: Columns with their Vega-Lite types, such as "val_top1:Q".
        **formats: Formats of numbers by column, where not three significant digits.
    """
    tooltip = []
    for field in fields:
        name, _, kind = field.partition(":")
        number_format = formats.get(name, ".3~g") if kind == "Q" else alt.Undefined
        tooltip.append(alt.Tooltip(field, title=name.replace("_", " "), format=number_format))
    return tooltip


def _history(study: Study) -> Chart:
    trials, references = study_data.history(study), study_data.references(study, "val_top1")
    roles = Roles(after="trial", best="best so far (95 %)")
    x = alt.X("number:Q", title="trial, in the order of their start", axis=whole_axis(trials["number"]))
    base = alt.Chart(named("history")).encode(x=x)
    band = base.mark_area(style="band", interpolate="step-after").encode(
        y=alt.Y("best_top1_low:Q", title=TOP1), y2="best_top1_high:Q"
    )
    best = roles.lines(base.mark_line(style="best", interpolate="step-after"), "best")
    best = best.encode(y=accuracy("best_top1"))
    tooltip = tips("trial:N", "state:N", "val_top1:Q", "val_top1_low:Q", "val_top1_high:Q", "settings:N")
    points = roles.lines(base.mark_point(size=45, filled=True, opacity=0.9), "after").encode(
        y=accuracy("val_top1"), shape=state_shape(trials), tooltip=tooltip
    )
    layers = [band, *([_intervals(base)] if len(trials) <= _MAX_INTERVALS else []), best, points]
    data = {"history": trials}
    if not references.empty:
        layers += _reference_layers("zero_shot", references)
        data["zero_shot"] = references
    caption = (
        "A mark is the best epoch of a trial. The line is the best trial so far, with its 95 % interval, "
        "which does not include the choice. Zero-shot CLIP is scored on the same views."
    )
    sources = (TRIALS, *zero_files(study))
    return Chart(
        "history", "Optimisation history", alt.layer(*layers), data, caption, sources, per_row=2, height=320
    )


def zero_files(study: Study) -> list[str]:
    """Return the files of the zero-shot scores."""
    return [] if study.zero_shot.empty else list(study.zero_shot["file"])


def _intervals(base: alt.Chart) -> alt.Chart:
    rule: alt.Chart = base.mark_rule(opacity=0.8, strokeWidth=1.5).encode(
        y=alt.Y("val_top1_low:Q"), y2="val_top1_high:Q"
    )
    return rule


def _reference_layers(name: str, references: pd.DataFrame) -> list[alt.Chart]:
    """Return dashed lines with their names: zero-shot CLIP on the left, chance on the right.

    Args:
        name: Name of the table on the page.
        references: Table of `study_data.references`.
    """
    base = alt.Chart(named(name)).encode(y=alt.Y("value:Q"))
    layers = [base.mark_rule(style="baseline").encode(tooltip=tips("name:N", "value:Q", "low:Q", "high:Q"))]
    for text in references["name"].unique():
        # The two values are often close to each other, so their names stand on different sides.
        is_chance = text == "chance"
        label = base.transform_filter(alt.datum.name == text).encode(
            x=alt.value("width" if is_chance else 0), text="name:N"
        )
        side: Literal["left", "right"] = "right" if is_chance else "left"
        dx = -4 if is_chance else 4
        layers += [
            label.mark_text(style=style, align=side, baseline="bottom", dx=dx, dy=-2)
            for style in ("halo", "label")
        ]
    return layers


def _slice(study: Study, axis: Axis) -> Chart:
    trials = study_data.slices(study, axis)
    name = "slice_" + axis.path.replace(".", "_")
    value = "value:N" if axis.kind == "category" else "value:Q"
    base = alt.Chart(named(name)).encode(x=_slice_x(axis, trials["value"]))
    points = base.mark_point(size=40, filled=True, opacity=0.8).encode(
        y=accuracy("val_top1"),
        shape=state_shape(trials).legend(None),
        color=alt.Color(
            "number:Q",
            title="trial",
            legend=alt.Legend(format="d", tickMinStep=1, tickCount=3),
            scale=alt.Scale(range="ramp"),
        ),
        tooltip=tips("trial:N", "state:N", value, "val_top1:Q"),
    )
    layers = [_intervals(base), points] if len(trials) <= _MAX_INTERVALS else [points]
    return Chart(name, axis.path, alt.layer(*layers), {name: trials}, sources=(TRIALS,), per_row=3)


def _slice_x(axis: Axis, values: pd.Series) -> alt.X:
    if axis.kind == "category":
        return alt.X("value:N", title=axis.title, sort=list(axis.order), axis=word_axis(axis.order))
    if axis.kind == "log":
        scale = alt.Scale(type="log", nice=False, padding=8)
        ticks = log_axis(values)
    else:
        scale = alt.Scale(zero=False, padding=8)
        ticks = whole_axis(values) if axis.kind == "whole" else alt.Axis(tickCount=5)
    return alt.X("value:Q", title=axis.title, scale=scale, axis=ticks)


def _parallel(study: Study, *, is_paired: bool) -> Chart:
    """Return the parallel coordinates. `is_paired` is whether the chart stands next to the history."""
    lines, marks = study_data.parallel(study)
    order = list(dict.fromkeys(lines["axis"]))
    angle = 0 if len(order) <= 5 else -25
    axis = alt.Axis(labelAngle=angle, domain=False, ticks=False, labelLimit=140)
    x = alt.X("axis:N", title=None, sort=order, scale=alt.Scale(type="point", padding=0.35), axis=axis)
    picked = alt.selection_point(
        name="picked", fields=["trial"], on="pointerover", nearest=False, empty=False
    )
    # A setting that a trial does not have crosses its axis below the values, above the axis titles.
    extent = alt.Scale(domain=[min(-0.04, 1.6 * lines["place"].min()), 1.04], nice=False)
    faint = 0.5 if lines["trial"].nunique() <= 100 else 0.18
    polylines = (
        alt.Chart(named("parallel"))
        .mark_line(strokeWidth=1.5)
        .encode(
            x=x,
            y=alt.Y("place:Q", axis=None, scale=extent),
            detail="trial:N",
            order=alt.Order("at:Q"),
            color=alt.Color("val_top1:Q", title=TOP1, scale=alt.Scale(range="ramp")),
            opacity=alt.condition(picked, alt.value(1), alt.value(faint)),
            strokeWidth=alt.condition(picked, alt.value(4), alt.value(1.5)),
            tooltip=tips("trial:N", "val_top1:Q"),
        )
        .add_params(picked)
    )
    base = alt.Chart(named("parallel_marks")).encode(x=x)
    posts = base.mark_rule(style="post").encode(y=alt.Y("min(place):Q", axis=None), y2="max(place):Q")
    label = base.encode(y=alt.Y("place:Q", axis=None), text="label:N")
    # The halo keeps the labels readable on top of the lines.
    halo, labels = (
        label.mark_text(align="left", dx=5, fontSize=11, style=style) for style in ("halo", "text")
    )
    drawing, data = alt.layer(posts, polylines, halo, labels), {"parallel": lines, "parallel_marks": marks}
    caption = "A line is a trial, coloured by its score. Good settings are where the bright lines pass."
    per_row, height, width = 2 if is_paired else 1, 320, 110 * len(order) + 60
    return Chart(
        "parallel", "Parallel coordinates", drawing, data, caption, (TRIALS,), per_row, height, width
    )


def _curves(study: Study, curves: pd.DataFrame, field: str, name: str) -> Chart:
    count, title, scale = curves["trial"].nunique(), METRICS[field].title, alt.Scale(zero=False)
    if field == "val_loss" and curves[field].min() > 0 and curves[field].max() > 20 * curves[field].min():
        scale, title = alt.Scale(type="log"), f"{title} (log scale)"
    lines = study_data.line_names(curves)
    legend = alt.Legend(
        title=None,
        symbolOpacity=1,
        symbolStrokeWidth=2.5,
        symbolType="stroke",
        # Names of trials are short: two of them fit next to each other on a phone.
        columns=alt.ExprRef("width < 460 ? 2 : 4"),
    )
    base = alt.Chart(named("curves")).encode(
        x=alt.X("epoch:Q", title="epoch", axis=whole_axis(curves["epoch"])),
        y=alt.Y(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(format="~g")),
        color=alt.Color("line:N", scale=alt.Scale(domain=lines, range="category"), legend=legend),
    )
    tooltip = tips("trial:N", "state:N", "rank:Q", "epoch:Q", f"{field}:Q", rank="d", epoch="d")
    is_best, is_other = "datum.rank == 1", f"datum.line == '{study_data.OTHERS}'"
    drawn = [(f"!({is_best}) && !({is_other})", 1.5, 1.0)] if count > 1 else []
    if study_data.OTHERS in lines:
        # The more curves, the fainter each is, so that those with a name stay visible.
        drawn = [(is_other, 1, min(0.7, max(0.08, 20 / count))), *drawn]
    has_points = curves["epoch"].nunique() == 1
    layers = [
        base.transform_filter(condition)
        .mark_line(strokeWidth=width, opacity=opacity, point=has_points)
        .encode(detail="trial:N", tooltip=tooltip)
        for condition, width, opacity in (*drawn, (is_best, 3, 1.0))
    ]
    ended_early = curves[curves["last"] & (curves["state"] != TrialState.COMPLETE)]
    if len(ended_early):
        marks = base.transform_filter("datum.last && datum.state != 'complete'").mark_point(
            size=40, filled=True, opacity=0.9
        )
        layers.append(marks.encode(shape=state_shape(ended_early), tooltip=tooltip))
    data, references = {"curves": curves}, study_data.references(study, field, chance=True)
    if not references.empty:
        data[f"{name}_references"] = references
        layers += _reference_layers(f"{name}_references", references)
    caption = "The thick line is the best trial. A mark is the end of a trial that did not complete."
    if len(curves) < study.epochs["val_top1"].notna().sum():
        caption += f" At most {study_data.MAX_EPOCHS} epochs per trial are drawn. The study's folder has all."
    sources = (TRIALS, *(zero_files(study) if len(references) else ()))
    return Chart(
        name, f"Learning curves: {title}", alt.layer(*layers), data, caption, sources, per_row=2, height=320
    )


def _importance(study: Study) -> Chart:
    known = study.importance[study.importance["importance"].notna()]
    shares = known[known["status"] == "ok"]
    axis = alt.Axis(format=".0%", tickCount=5)
    base = alt.Chart(named("importance"))
    roles = Roles(after="importance", best="noise")
    bars = roles.lines(base.mark_bar(), "after").encode(
        x=alt.X("importance:Q", title="share of the importance", axis=axis),
        y=alt.Y("path:N", title=None, sort="-x", axis=name_axis(list(shares["path"]))),
        tooltip=tips("path:N", "importance:Q", "null:Q"),
    )
    noise = roles.lines(base.mark_tick(thickness=3), "best").encode(
        x="null:Q", y=alt.Y("path:N", sort="-x"), tooltip=tips("path:N", "null:Q")
    )
    evaluator, within = shares["evaluator"].iloc[0], list(known.loc[known["status"] != "ok", "path"])
    caption = (
        f"Importance of each setting for a place among the best trials: {evaluator}. The line across "
        "a bar is the noise: with the scores permuted over the trials, one of the settings exceeds its line "
        "in 5 % of the cases."
    )
    if within:
        caption += f" Within noise and not drawn: {', '.join(within)}."
    title, data, height = "Hyperparameter importance", {"importance": shares}, 120 + 30 * len(shares)
    return Chart(
        "importance",
        title,
        alt.layer(bars, noise),
        data,
        caption,
        ("study.journal",),
        per_row=2,
        height=height,
    )
