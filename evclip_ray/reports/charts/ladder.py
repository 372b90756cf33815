"""Charts of a ladder: accuracy over cost with fits, Pareto fronts, costs, and the best settings by step."""

import altair as alt
import pandas as pd

from evclip_ray.formatting import brief_path
from evclip_ray.reports.charts import ladder_data
from evclip_ray.reports.charts.labels import log_ticks, name_axis, word_axis
from evclip_ray.reports.charts.roles import Roles
from evclip_ray.reports.charts.study import TOP1, accuracy, named, tips
from evclip_ray.reports.document import Chart
from evclip_ray.results import Ladder

_TABLE, _FITS = "ladder.csv", "fits.json"


def ladder_charts(ladder: Ladder) -> list[Chart]:
    """Return the charts that the steps so far allow; none before a step has a score."""
    if ladder_data.scored_steps(ladder).empty:
        return []
    costs = ladder_data.costs_that_differ(ladder)
    charts = [_over_cost(ladder, cost, is_first=cost == costs[0]) for cost in costs]
    fronts = [cost for cost in ladder_data.FRONTS if not ladder_data.over_cost(ladder, cost).empty]
    charts += [_front(ladder, cost, is_first=cost == fronts[0]) for cost in fronts]
    if not ladder_data.gmac_by_part(ladder).empty:
        charts.append(_parts(ladder))
    charts.append(_trials(ladder))
    if not ladder_data.importance(ladder).empty:
        charts.append(_importance(ladder))
    best = ladder.table("transfer")
    paths = [] if best.empty else list(dict.fromkeys(best.loc[best["best"].notna(), "path"]))
    return charts + [_transfer(ladder, path) for path in paths]


def _over_cost(ladder: Ladder, cost: str, *, is_first: bool) -> Chart:
    """Return the accuracy over a cost. The first of these charts is wide and has the caption of all."""
    steps, curves = ladder_data.over_cost(ladder, cost), ladder_data.fitted_curves(ladder, cost)
    name, cost_title = f"ladder_{cost}", ladder_data.COSTS[cost]
    ticks = log_ticks(steps["cost"].min(), steps["cost"].max())
    axis = alt.Axis(format=_cost_format(cost), **({"tickCount": 5} if ticks is None else {"values": ticks}))
    scale = alt.Scale(type="log", nice=False, padding=30)
    x = alt.X("cost:Q", title=f"{cost_title} (log scale)", axis=axis, scale=scale)
    fits, data = [], {name: steps}
    if not curves.empty:
        fitted = alt.Chart(named(f"{name}_fits")).encode(
            x=x, color=alt.Color("form:N", title="fit (95 % band)", legend=alt.Legend(symbolOpacity=1))
        )
        band = fitted.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title=TOP1), y2="high:Q")
        fits.append(alt.layer(band, fitted.mark_line(strokeWidth=1.5).encode(y=alt.Y("top1:Q", title=TOP1))))
        data[f"{name}_fits"] = curves
    base = alt.Chart(named(name)).encode(x=x)
    drawing = alt.layer(_interval(base), *_marks(base, len(steps), _roles()))
    if fits:
        # The forms of the fits and the roles of the marks have separate legends.
        drawing = alt.layer(*fits, drawing).resolve_scale(color="independent", shape="independent")
    caption = (
        "Intervals are 95 %. Zero-shot CLIP is scored on the same videos. The best of many trials on few "
        "videos is optimistic, on every step alike."
    )
    per_row = 1 if is_first else 3
    title = f"Accuracy over {cost_title.partition(',')[0]}"
    return Chart(
        name, title, drawing, data, caption if is_first else "", (_TABLE, _FITS), per_row, height=330
    )


def _cost_format(cost: str) -> str:
    return "~s" if "parameters" in cost else "~g"


def _interval(base: alt.Chart) -> alt.Chart:
    rule: alt.Chart = base.mark_rule(style="after", strokeWidth=2).encode(
        y=alt.Y("val_top1_low:Q", title=TOP1), y2="val_top1_high:Q"
    )
    return rule


def _roles(**names: str) -> Roles:
    return Roles(after="best trial of a step", **names, before="zero-shot CLIP")


def _marks(base: alt.Chart, count: int, roles: Roles) -> list[alt.Chart]:
    scores = ("val_top1:Q", "val_top1_low:Q", "val_top1_high:Q", "zero_shot_top1:Q")
    tooltip = [_step_tip(), *tips(*scores, "trials:Q", "cost:Q")]
    before = roles.points(base.mark_point(size=60, filled=True, opacity=1), "before").encode(
        y=alt.Y("zero_shot_top1:Q"), tooltip=tooltip
    )
    after = roles.points(base.mark_point(size=80, filled=True, opacity=1), "after").encode(
        y=accuracy("val_top1"), tooltip=tooltip
    )
    label = base.encode(y=alt.Y("val_top1:Q"), text="rung:N")
    # Neighbours often have nearly the same score and cost, so the labels alternate between above and below.
    labels = [
        label.transform_filter(f"datum.place % 2 == {turn}").mark_text(
            style=style, align="left", dx=8, dy=-9 + 18 * turn, fontSize=12
        )
        for turn in range(min(2, count))
        for style in ("halo", "text")
    ]
    return [before, after, *labels]


def _step_tip() -> alt.Tooltip:
    """Return the step's name for a tooltip. Its column has the name `rung` on disk."""
    return alt.Tooltip("rung:N", title="step")


def _front(ladder: Ladder, cost: str, *, is_first: bool) -> Chart:
    """Return the Pareto front of a cost. The first of these charts has the caption of all."""
    steps, name = ladder_data.over_cost(ladder, cost), f"pareto_{cost}"
    steps = steps.assign(front=steps[ladder_data.FRONTS[cost]].astype(str).str.lower() == "true")
    cost_title = ladder_data.COSTS[cost]
    axis = alt.Axis(format=_cost_format(cost), tickCount=4)
    x = alt.X("cost:Q", title=cost_title, axis=axis, scale=alt.Scale(zero=False, padding=30))
    base = alt.Chart(named(name)).encode(x=x)
    layers, roles = [], _roles()
    # Vega warns about the infinite extent of a layer without rows.
    if steps["front"].any():
        roles = _roles(best="front")
        line = base.transform_filter("datum.front").mark_line(style="best", interpolate="step-after")
        layers.append(roles.lines(line, "best").encode(y=alt.Y("val_top1:Q", title=TOP1)))
    drawing = alt.layer(*layers, _interval(base), *_marks(base, len(steps), roles))
    caption = "The front joins the steps for which no other step is both cheaper and more accurate."
    title = f"Pareto front: {cost_title.partition(',')[0]}"
    return Chart(
        name, title, drawing, {name: steps}, caption if is_first else "", (_TABLE,), per_row=3, height=330
    )


def _parts(ladder: Ladder) -> Chart:
    parts = ladder_data.gmac_by_part(ladder)
    bars = (
        alt.Chart(named("gmac_by_part"))
        .mark_bar()
        .encode(
            x=alt.X("sum(gmac):Q", title="GMAC of one video", axis=alt.Axis(format="~g", tickCount=6)),
            y=alt.Y("rung:N", title="step", sort=list(dict.fromkeys(parts["rung"]))),
            # Two names of parts in one row of the legend are wider than a phone.
            color=alt.Color("part:N", title="part", legend=alt.Legend(columns=1)),
            tooltip=[_step_tip(), *tips("part:N", "gmac:Q")],
        )
    )
    caption = "Multiply-accumulate operations (1 MAC = 2 FLOP), counted from shapes, attention included."
    height = 110 + 34 * parts["rung"].nunique() + 16 * parts["part"].nunique()
    data, sources = {"gmac_by_part": parts}, ("costs.csv",)
    return Chart("gmac_by_part", "Operations by part", bars, data, caption, sources, height=height)


def _step_axis(ladder: Ladder) -> alt.X:
    names = list(ladder.steps)
    return alt.X("rung:N", title="step", sort=names, axis=word_axis(names))


def _trials(ladder: Ladder) -> Chart:
    strip = (
        alt.Chart(named("rung_trials"))
        .transform_calculate(jitter="random()")
        .mark_point(size=35, filled=True, opacity=0.9)
        .encode(
            x=_step_axis(ladder),
            xOffset=alt.XOffset("jitter:Q", scale=alt.Scale(domain=[-1, 2])),
            y=accuracy("val_top1"),
            tooltip=[_step_tip(), *tips("trial:N", "state:N", "val_top1:Q", "settings:N")],
        )
    )
    data, sources = {"rung_trials": ladder_data.all_trials(ladder)}, ("rungs/*/trials/*/history.jsonl",)
    caption = "A mark is the best epoch of a trial."
    return Chart("rung_trials", "All trials by step", strip, data, caption, sources, per_row=2)


def _importance(ladder: Ladder) -> Chart:
    shares = ladder_data.importance(ladder)
    base = alt.Chart(named("importance")).encode(
        x=_step_axis(ladder), y=alt.Y("path:N", title=None, axis=name_axis(list(shares["path"])))
    )
    shade = alt.Color("importance:Q", title="importance", scale=alt.Scale(range="heatmap", domain=[0, 1]))
    tooltip = [_step_tip(), *tips("path:N", "importance:Q", "null:Q", "trials:Q")]
    cells = base.mark_rect().encode(color=shade, tooltip=tooltip)
    ink = alt.condition(
        "luminance(scale('color', datum.importance)) > 0.18", alt.value("#111111"), alt.value("#ffffff")
    )
    text = base.mark_text().encode(text=alt.Text("importance:Q", format=".2f"), color=ink)
    title, drawing = "Hyperparameter importance by step", alt.layer(cells, text)
    caption = (
        f"Shares of 1 on each step: {shares['evaluator'].iloc[0]}. Empty where the share is within "
        "noise, which is measured with the scores permuted over the trials."
    )
    data, height = {"importance": shares}, 130 + 34 * shares["path"].nunique()
    return Chart("importance", title, drawing, data, caption, ("importance.csv",), per_row=2, height=height)


def _transfer(ladder: Ladder, path: str) -> Chart:
    best, name = ladder_data.transfer(ladder, path), "transfer_" + path.replace(".", "_")
    numbers = pd.to_numeric(best["best"], errors="coerce")
    base = alt.Chart(named(name)).encode(x=_step_axis(ladder))
    tooltip = [_step_tip(), *tips("best:N", "within_noise:N", "trials:Q")]
    points = base.mark_point(style="after", size=80, filled=True, opacity=1)
    if numbers.isna().any():
        words = points.encode(y=alt.Y("best:N", title=brief_path(path)), tooltip=tooltip)
        return Chart(name, path, words, {name: best}, sources=("transfer.csv",), per_row=3)
    best = best.assign(best=numbers)
    is_log = any(
        slope["path"] == path and str(slope.get("scale")).startswith("log")
        for slope in ladder.fits.get("transfer", {}).get("slopes", [])
    )
    scale = alt.Scale(type="log", nice=False, padding=12) if is_log else alt.Scale(zero=False)
    title = brief_path(path) + (" (log scale)" if is_log else "")
    extremes = best[["low", "best", "high"]].apply(pd.to_numeric, errors="coerce")
    ticks = log_ticks(extremes.min(axis=None), extremes.max(axis=None)) if is_log else None
    axis = alt.Axis(format="~g") if ticks is None else alt.Axis(format="~g", values=ticks)
    y = alt.Y("best:Q", title=title, scale=scale, axis=axis)
    extent = base.mark_rule(style="after", strokeWidth=2, opacity=0.5).encode(y=alt.Y("low:Q"), y2="high:Q")
    drawing = alt.layer(extent, points.encode(y=y, tooltip=tooltip))
    return Chart(name, path, drawing, {name: best}, sources=("transfer.csv", _FITS), per_row=3)
