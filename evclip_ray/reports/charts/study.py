"""The charts of a study: history, slices, parallel coordinates, learning curves, importance.

They are Vega-Lite, made by Altair and drawn in the reader's browser by the copy of Vega that vl-convert
carries, because of what a report must do at once: stand alone in a file (Vega is 0.9 MB of it, plotly's
4.6 MB), hold a thousand trials as numbers that can be pointed at rather than as ink (matplotlib's SVG of
their curves is 10 MB and says nothing), fit a phone without shrinking its letters, and change colours
with the reader's scheme. Many marks are drawn on a canvas, few as SVG.
"""

import altair as alt
import pandas as pd

from evclip_ray.reports.charts import study_data
from evclip_ray.reports.charts.study_data import Axis
from evclip_ray.reports.charts.theme import STATE_SHAPES, STATES
from evclip_ray.reports.document import Chart
from evclip_ray.results import Study

TRIALS = "trials/*/history.jsonl"
_FEW = 40
"""Up to so many trials each has its interval drawn; more would hide each other."""
_MARKED = 8
"""Up to so many whole numbers an axis has each; of more, as many as there is room for."""


def study_charts(study: Study) -> list[Chart]:
    """Every chart that the study's trials allow; none of a study without a scored trial."""
    if study.best is None:
        return []
    found = [_history(study)]
    if "importance" in study.importance and study.importance["importance"].notna().any():
        found.append(_importance(study))
    if study_data.axes(study):
        found.append(_parallel(study))
    found += [_slice(study, axis) for axis in study_data.axes(study)]
    curves = study_data.curves(study)
    found.append(_curves(study, curves, "val_top1", "validation top-1", "curves_top1"))
    if study.epochs["val_loss"].notna().any():
        found.append(_curves(study, curves, "val_loss", "validation loss, nats", "curves_loss"))
    return found


def named(name: str) -> alt.NamedData:
    """Data that the page brings."""
    return alt.NamedData(name=name)


def accuracy(field: str, title: str = "validation top-1") -> alt.Y:
    """A vertical axis of accuracies."""
    return alt.Y(
        f"{field}:Q", title=title, scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(format=".2f")
    )


def whole_axis(values: pd.Series) -> alt.Axis:
    """An axis of whole numbers: each of a few by itself, for left alone Vega puts halves between them."""
    low, high = int(values.min()), int(values.max())
    if high - low < _MARKED:
        return alt.Axis(format="d", values=list(range(low, high + 1)))
    return alt.Axis(format="d", tickMinStep=1)


def state_shape(frame: pd.DataFrame) -> alt.Shape:
    """How a trial ended, as the shape of its mark; the legend has those that there are."""
    present = [state for state in STATES if state in set(frame["state"])]
    scale = alt.Scale(domain=list(STATES), range=list(STATE_SHAPES))
    return alt.Shape("state:N", title="trial", scale=scale, legend=alt.Legend(values=present))


def tips(*fields: str, **formats: str) -> list[alt.Tooltip]:
    """What is said of a mark that is pointed at; `formats` of numbers by field."""
    found = []
    for field in fields:
        name, _, kind = field.partition(":")
        shown = formats.get(name, ".3~g") if kind == "Q" else alt.Undefined
        found.append(alt.Tooltip(field, title=name.replace("_", " "), format=shown))
    return found


def _history(study: Study) -> Chart:
    frame, zero = study_data.history(study), study_data.baselines(study)
    x = alt.X("number:Q", title="trial, in the order that they began", axis=whole_axis(frame["number"]))
    base = alt.Chart(named("history")).encode(x=x)
    band = base.mark_area(style="band", interpolate="step-after").encode(
        y=alt.Y("best_top1_low:Q", title="validation top-1"), y2="best_top1_high:Q"
    )
    best = base.mark_line(style="best", interpolate="step-after").encode(y=accuracy("best_top1"))
    points = base.mark_point(size=45, filled=True, opacity=0.75).encode(
        y=accuracy("val_top1"), shape=state_shape(frame),
        tooltip=tips("trial:N", "state:N", "val_top1:Q", "val_top1_low:Q", "val_top1_high:Q", "settings:N"),
    )  # fmt: skip
    layers = [band, best, *([_intervals(base)] if len(frame) <= _FEW else []), points]
    data = {"history": frame}
    if not zero.empty:
        layers += _baseline_layers()
        data["zero_shot"] = zero
    return Chart(
        "history", "Optimisation history", alt.layer(*layers), data,
        "Each mark is a trial's best epoch; the line is the best trial so far, with its 95 % Wilson interval;"
        " the dashed line is zero-shot CLIP on the same views.",
        (TRIALS, *zero_files(study)),
    )  # fmt: skip


def zero_files(study: Study) -> list[str]:
    """The files of the zero-shot numbers."""
    return [] if study.zero_shot.empty else list(study.zero_shot["file"])


def _intervals(base: alt.Chart) -> alt.Chart:
    rule: alt.Chart = base.mark_rule(opacity=0.35).encode(y=alt.Y("val_top1_low:Q"), y2="val_top1_high:Q")
    return rule


def _baseline_layers() -> list[alt.Chart]:
    base = alt.Chart(named("zero_shot"))
    rule = base.mark_rule(style="baseline").encode(
        y=alt.Y("top1:Q"), tooltip=tips("name:N", "top1:Q", "low:Q", "high:Q")
    )
    label = base.mark_text(style="label", align="left", baseline="bottom", dx=4, dy=-2).encode(
        y=alt.Y("top1:Q"), x=alt.value(0), text="name:N"
    )
    return [rule, label]


def _slice(study: Study, axis: Axis) -> Chart:
    frame = study_data.slices(study, axis)
    name = "slice_" + axis.path.replace(".", "_")
    base = alt.Chart(named(name)).encode(x=_slice_x(axis, frame["value"]))
    points = base.mark_point(size=40, filled=True, opacity=0.8).encode(
        y=accuracy("val_top1"), shape=state_shape(frame).legend(None),
        color=alt.Color("number:Q", title="trial", legend=None, scale=alt.Scale(range="ramp")),
        tooltip=tips("trial:N", "state:N", f"value:{'N' if axis.kind == 'category' else 'Q'}", "val_top1:Q"),
    )  # fmt: skip
    layers = [_intervals(base), points] if len(frame) <= _FEW else [points]
    return Chart(name, axis.path, alt.layer(*layers), {name: frame}, sources=(TRIALS,), small=True)


def _slice_x(axis: Axis, values: pd.Series) -> alt.X:
    if axis.kind == "category":
        return alt.X("value:N", title=axis.title, sort=list(axis.order), axis=alt.Axis(labelAngle=0))
    if axis.kind == "log":
        shown = alt.Axis(format="~g", tickCount=4)
        return alt.X(
            "value:Q", title=axis.title, scale=alt.Scale(type="log", nice=False, padding=8), axis=shown
        )
    marks = whole_axis(values) if axis.kind == "whole" else alt.Axis(tickCount=5)
    return alt.X("value:Q", title=axis.title, scale=alt.Scale(zero=False, padding=8), axis=marks)


def _parallel(study: Study) -> Chart:
    lines, marks = study_data.parallel(study)
    order = list(dict.fromkeys(lines["axis"]))
    x = alt.X(
        "axis:N", title=None, sort=order, scale=alt.Scale(type="point", padding=0.35),
        axis=alt.Axis(labelAngle=0 if len(order) <= 5 else -25, domain=False, ticks=False, labelLimit=140),
    )  # fmt: skip
    picked = alt.selection_point(
        name="picked", fields=["trial"], on="pointerover", nearest=False, empty=False
    )
    # What is not set crosses its axis below the others, above the names of the axes.
    reach = alt.Scale(domain=[min(-0.04, 1.6 * lines["place"].min()), 1.04], nice=False)
    faint = 0.5 if lines["trial"].nunique() <= 100 else 0.18
    drawn = (
        alt.Chart(named("parallel"))
        .mark_line(strokeWidth=1.5)
        .encode(
            x=x, y=alt.Y("place:Q", axis=None, scale=reach), detail="trial:N", order=alt.Order("at:Q"),
            color=alt.Color("val_top1:Q", title="validation top-1", scale=alt.Scale(range="ramp")),
            opacity=alt.condition(picked, alt.value(1), alt.value(faint)),
            strokeWidth=alt.condition(picked, alt.value(4), alt.value(1.5)),
            tooltip=tips("trial:N", "val_top1:Q"),
        )
        .add_params(picked)
    )  # fmt: skip
    base = alt.Chart(named("parallel_marks")).encode(x=x)
    posts = base.mark_rule(style="rung").encode(y=alt.Y("min(place):Q", axis=None), y2="max(place):Q")
    label = base.encode(y=alt.Y("place:Q", axis=None), text="label:N")
    halo, labels = (
        label.mark_text(align="left", dx=5, fontSize=11, style=style) for style in ("halo", "text")
    )
    return Chart(
        "parallel", "Parallel coordinates", alt.layer(posts, drawn, halo, labels),
        {"parallel": lines, "parallel_marks": marks},
        "A line is a trial, coloured by its score: the good settings are where the bright lines pass.",
        (TRIALS,), height=360, width=110 * len(order) + 60,
    )  # fmt: skip


def _curves(study: Study, frame: pd.DataFrame, field: str, title: str, name: str) -> Chart:
    count = frame["trial"].nunique()
    scale = alt.Scale(zero=False)
    if field == "val_loss" and frame[field].min() > 0 and frame[field].max() > 20 * frame[field].min():
        scale, title = alt.Scale(type="log"), f"{title} (log scale)"
    y = alt.Y(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(format="~g"))
    base = alt.Chart(named("curves")).encode(
        x=alt.X("epoch:Q", title="epoch", axis=whole_axis(frame["epoch"])), y=y
    )
    rest = base.mark_line(strokeWidth=1, opacity=min(0.7, max(0.05, 20 / max(1, count)))).encode(
        detail="trial:N", tooltip=tips("trial:N", "state:N", "rank:Q", f"{field}:Q")
    )
    best = (
        base.transform_filter("datum.rank == 1")
        .mark_line(style="best", point=frame["epoch"].nunique() == 1)
        .encode(tooltip=tips("trial:N", "state:N", "epoch:Q", f"{field}:Q"))
    )
    layers = [rest, best]
    ended = frame[frame["last"] & (frame["state"] != "complete")]
    if len(ended):
        marks = base.transform_filter("datum.last && datum.state != 'complete'").mark_point(
            size=40, filled=True, opacity=0.7
        )
        said = tips("trial:N", "state:N", "epoch:Q", f"{field}:Q")
        layers.append(marks.encode(shape=state_shape(ended), tooltip=said))
    says = "A line is a trial, the thick one the best; a mark is where one was stopped early or failed."
    if len(frame) < study.epochs["val_top1"].notna().sum():
        says += f" At most {study_data.MOST_EPOCHS} epochs of each are drawn; the folder has all."
    return Chart(name, f"Learning curves: {title}", alt.layer(*layers), {"curves": frame}, says, (TRIALS,))


def _importance(study: Study) -> Chart:
    frame = study.importance[study.importance["importance"].notna()]
    bars = (
        alt.Chart(named("importance"))
        .mark_bar()
        .encode(
            x=alt.X(
                "importance:Q", title="share of the importance", axis=alt.Axis(format=".0%", tickCount=5)
            ),
            y=alt.Y("path:N", title=None, sort="-x", axis=alt.Axis(labelLimit=180)),
            tooltip=tips("path:N", "importance:Q"),
        )
    )
    return Chart(
        "importance", "Hyperparameter importance", bars, {"importance": frame},
        f"How much a setting matters for being among the best: {frame['evaluator'].iloc[0]}.",
        ("study.journal",), height=90 + 30 * len(frame),
    )  # fmt: skip
