"""The charts of a ladder: accuracy over cost with its fits, Pareto fronts, where settings are best."""

import altair as alt
import pandas as pd

from evclip_ray.formatting import brief_path
from evclip_ray.reports.charts import ladder_data
from evclip_ray.reports.charts.study import accuracy, named, tips
from evclip_ray.reports.document import Chart
from evclip_ray.results import Ladder

_TABLE, _FITS = "ladder.csv", "fits.json"


def ladder_charts(ladder: Ladder) -> list[Chart]:
    """Every chart that the rungs so far allow; none of a ladder without a scored rung."""
    if ladder_data.scored_steps(ladder).empty:
        return []
    charts = [_over_cost(ladder, cost) for cost in ladder_data.costs_that_differ(ladder)]
    charts += [
        _front(ladder, cost) for cost in ladder_data.FRONTS if not ladder_data.over_cost(ladder, cost).empty
    ]
    if not ladder_data.gmac_by_part(ladder).empty:
        charts.append(_parts(ladder))
    charts.append(_trials(ladder))
    if not ladder_data.importance(ladder).empty:
        charts.append(_importance(ladder))
    moving = ladder.table("transfer")
    paths = [] if moving.empty else list(dict.fromkeys(moving.loc[moving["best"].notna(), "path"]))
    return charts + [_transfer(ladder, path) for path in paths]


def _over_cost(ladder: Ladder, cost: str) -> Chart:
    frame, curves, name = (
        ladder_data.over_cost(ladder, cost),
        ladder_data.fitted_curves(ladder, cost),
        f"ladder_{cost}",
    )
    x = alt.X(
        "cost:Q",
        title=f"{ladder_data.COSTS[cost]} (log scale)",
        axis=alt.Axis(format=_ticks(cost), tickCount=5),
        scale=alt.Scale(type="log", nice=False, padding=30),
    )
    layers, data = [], {name: frame}
    if not curves.empty:
        fitted = alt.Chart(named(f"{name}_fits")).encode(
            x=x, color=alt.Color("form:N", title="fit (95 % band)", legend=alt.Legend(symbolOpacity=1))
        )
        layers.append(fitted.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title=_TITLE), y2="high:Q"))
        layers.append(fitted.mark_line(strokeWidth=1.5).encode(y=alt.Y("top1:Q", title=_TITLE)))
        data[f"{name}_fits"] = curves
    base = alt.Chart(named(name)).encode(x=x)
    layers += [_interval(base), *_marks(base, len(frame))]
    return Chart(
        name, f"Accuracy over {ladder_data.COSTS[cost].partition(',')[0]}", alt.layer(*layers), data,
        "A circle is a rung's best trial with its 95 % Wilson interval, a diamond zero-shot CLIP on the same "
        "videos. The best of many trials on few videos flatters itself, on every rung alike.",
        (_TABLE, _FITS), small=cost != ladder_data.costs_that_differ(ladder)[0],
    )  # fmt: skip


def _ticks(cost: str) -> str:
    return "~s" if "parameters" in cost else "~g"


_TITLE = "validation top-1"


def _interval(base: alt.Chart) -> alt.Chart:
    rule: alt.Chart = base.mark_rule(style="after", strokeWidth=2).encode(
        y=alt.Y("val_top1_low:Q", title=_TITLE), y2="val_top1_high:Q"
    )
    return rule


def _marks(base: alt.Chart, count: int) -> list[alt.Chart]:
    said = tips(
        "rung:N", "val_top1:Q", "val_top1_low:Q", "val_top1_high:Q", "zero_shot_top1:Q", "trials:Q", "cost:Q"
    )
    before = base.mark_point(style="before", shape="diamond", size=60, filled=True).encode(
        y=alt.Y("zero_shot_top1:Q"), tooltip=said
    )
    after = base.mark_point(style="after", size=80, filled=True, opacity=1).encode(
        y=accuracy("val_top1"), tooltip=said
    )
    label = base.encode(y=alt.Y("val_top1:Q"), text="rung:N")
    # Above and below by turns: neighbours are often as good, and nearly as dear.
    labels = [
        label.transform_filter(f"datum.place % 2 == {turn}").mark_text(
            style=style, align="left", dx=8, dy=-9 + 18 * turn, fontSize=12
        )
        for turn in range(min(2, count))
        for style in ("halo", "text")
    ]
    return [before, after, *labels]


def _front(ladder: Ladder, cost: str) -> Chart:
    frame, name = ladder_data.over_cost(ladder, cost), f"pareto_{cost}"
    frame = frame.assign(front=frame[ladder_data.FRONTS[cost]].astype(str).str.lower() == "true")
    x = alt.X(
        "cost:Q", title=ladder_data.COSTS[cost], axis=alt.Axis(format=_ticks(cost), tickCount=4),
        scale=alt.Scale(zero=False, padding=30),
    )  # fmt: skip
    base = alt.Chart(named(name)).encode(x=x)
    line = (
        base.transform_filter("datum.front")
        .mark_line(style="best", interpolate="step-after")
        .encode(y=alt.Y("val_top1:Q", title=_TITLE))
    )
    # A layer without a row has no extent, which Vega warns of.
    layers = [line] if frame["front"].any() else []
    return Chart(
        name, f"Pareto front: {ladder_data.COSTS[cost].partition(',')[0]}",
        alt.layer(*layers, _interval(base), *_marks(base, len(frame))), {name: frame},
        "The line joins the rungs that no other beats in both.", (_TABLE,), small=True,
    )  # fmt: skip


def _parts(ladder: Ladder) -> Chart:
    frame = ladder_data.gmac_by_part(ladder)
    bars = (
        alt.Chart(named("gmac_by_part"))
        .mark_bar()
        .encode(
            x=alt.X("sum(gmac):Q", title="GMAC of one video", axis=alt.Axis(format="~g", tickCount=6)),
            y=alt.Y("rung:N", title="rung", sort=list(dict.fromkeys(frame["rung"]))),
            # Two of their names beside each other are wider than a phone.
            color=alt.Color("part:N", title="part", legend=alt.Legend(columns=1)),
            tooltip=tips("rung:N", "part:N", "gmac:Q"),
        )
    )
    return Chart(
        "gmac_by_part", "Where the work is", bars, {"gmac_by_part": frame},
        "Multiply-accumulates (1 MAC = 2 FLOP), counted, attention included.", ("costs.csv",),
        height=110 + 34 * frame["rung"].nunique() + 16 * frame["part"].nunique(),
    )  # fmt: skip


def _trials(ladder: Ladder) -> Chart:
    frame = ladder_data.all_trials(ladder)
    order = list(ladder.rungs)
    strip = (
        alt.Chart(named("rung_trials"))
        .transform_calculate(jitter="random()")
        .mark_point(size=35, filled=True, opacity=0.6)
        .encode(
            x=alt.X("rung:N", title="rung", sort=order, axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("jitter:Q", scale=alt.Scale(domain=[-1, 2])),
            y=accuracy("val_top1"),
            tooltip=tips("rung:N", "trial:N", "state:N", "val_top1:Q", "settings:N"),
        )
    )
    return Chart(
        "rung_trials", "All trials of every rung", strip, {"rung_trials": frame},
        "A mark is a trial's best epoch.", ("rungs/*/trials/*/history.jsonl",),
    )  # fmt: skip


def _importance(ladder: Ladder) -> Chart:
    frame = ladder_data.importance(ladder)
    base = alt.Chart(named("importance")).encode(
        x=alt.X("rung:N", title="rung", sort=list(ladder.rungs), axis=alt.Axis(labelAngle=0)),
        y=alt.Y("path:N", title=None, axis=alt.Axis(labelLimit=180)),
    )
    shade = alt.Color(
        "importance:Q", title="importance", scale=alt.Scale(range="heatmap", domain=[0, 1])
    )  # fmt: skip
    cells = base.mark_rect().encode(color=shade, tooltip=tips("rung:N", "path:N", "importance:Q", "trials:Q"))
    ink = alt.condition("datum.importance > 0.55", alt.value("#111111"), alt.value("#ffffff"))
    text = base.mark_text().encode(text=alt.Text("importance:Q", format=".2f"), color=ink)
    return Chart(
        "importance", "Hyperparameter importance by rung", alt.layer(cells, text), {"importance": frame},
        f"Shares of 1 on each rung, by {frame['evaluator'].iloc[0]}.", ("importance.csv",),
        height=130 + 34 * frame["path"].nunique(),
    )  # fmt: skip


def _transfer(ladder: Ladder, path: str) -> Chart:
    frame, name = ladder_data.transfer(ladder, path), "transfer_" + path.replace(".", "_")
    numbers = pd.to_numeric(frame["best"], errors="coerce")
    base = alt.Chart(named(name)).encode(
        x=alt.X("rung:N", title="rung", sort=list(ladder.rungs), axis=alt.Axis(labelAngle=0))
    )
    said = tips("rung:N", "best:N", "within_noise:N", "trials:Q")
    if numbers.isna().any():
        points = base.mark_point(style="after", size=80, filled=True)
        chart: alt.Chart | alt.LayerChart | alt.FacetChart = points.encode(
            y=alt.Y("best:N", title=brief_path(path)), tooltip=said
        )
        return Chart(name, path, chart, {name: frame}, "", ("transfer.csv",), small=True)
    frame = frame.assign(best=numbers)
    is_log = any(
        found["path"] == path and str(found.get("scale")).startswith("log")
        for found in ladder.fits.get("transfer", {}).get("slopes", [])
    )
    scale = alt.Scale(type="log", nice=False, padding=12) if is_log else alt.Scale(zero=False)
    y = alt.Y(
        "best:Q", title=brief_path(path) + " (log scale)" * is_log, scale=scale, axis=alt.Axis(format="~g")
    )
    points = base.mark_point(style="after", size=80, filled=True, opacity=1).encode(y=y, tooltip=said)
    reach = base.mark_rule(style="after", strokeWidth=2, opacity=0.5).encode(y=alt.Y("low:Q"), y2="high:Q")
    return Chart(
        name, path, alt.layer(reach, points), {name: frame}, "", (("transfer.csv"), _FITS), small=True
    )  # fmt: skip
