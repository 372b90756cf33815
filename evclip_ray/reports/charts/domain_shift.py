"""Figures of a domain shift as PNG files: distributions of factors, effect sizes, features, classes.

A set of videos has the same colour and line style in all figures. The colours are those of Okabe and Ito,
which colour-blind readers can distinguish.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evclip_ray.artifacts import replacing
from evclip_ray.domain_shift.compare import Domain, Row, Tables
from evclip_ray.domain_shift.feature_distance import principal_plane
from evclip_ray.domain_shift.visual_factors import VISUAL_FACTORS
from evclip_ray.formatting import counted

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
_MARKERS = "osD^vP*"
_PIXELS_PER_INCH = 150

Draw = Callable[[Axes], None]


def draw_shift(folder: Path, domains: Sequence[Domain], tables: Tables) -> list[Path]:
    """Draw one figure per visual factor and one per table.

    Args:
        folder: Folder of the PNG files.
        domains: Sets of videos with their measurements.
        tables: Tables of `domain_shift.compare`, with `association` if there were predictions.

    Returns:
        The files.
    """
    drawings: dict[str, Draw] = {
        factor: functools.partial(_distribution, domains=domains, tables=tables, factor=factor)
        for factor in VISUAL_FACTORS
    }
    drawings["effect_sizes"] = functools.partial(_effect_sizes, rows=tables["visual"])
    drawings["features"] = functools.partial(_features, domains=domains, rows=tables["features"])
    drawings["classes"] = functools.partial(_classes, rows=tables["nearest"])
    drawings["zero_shot"] = functools.partial(_zero_shot, rows=tables["semantic"])
    if tables.get("association"):
        drawings["association"] = functools.partial(_association, rows=tables["association"])
    return [_save(folder / f"{name}.png", draw) for name, draw in drawings.items()]


def _save(path: Path, draw: Draw) -> Path:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_PIXELS_PER_INCH)
    return path


def _distribution(axes: Axes, domains: Sequence[Domain], tables: Tables, factor: str) -> None:
    for index, domain in enumerate(domains):
        values = np.sort(domain.visual[factor])
        share = np.arange(1, len(values) + 1) / len(values)
        median = float(np.median(values))
        label = f"{domain.name} (median {median:.3g}, {counted(len(values), 'video')})"
        axes.step(values, share, where="post", label=label, **_line(index))
        axes.plot(median, 0.5, marker=_marker(index), color=_colour(index))
    axes.set_xlabel(VISUAL_FACTORS[factor])
    axes.set_ylabel("share of videos at or below")
    axes.set_ylim(0, 1.02)
    axes.set_title(_title(factor, [row for row in tables["visual"] if row["factor"] == factor]))
    axes.legend(frameon=False, fontsize="small")


def _title(factor: str, rows: Sequence[Row]) -> str:
    name = factor.replace("_", " ").capitalize()
    if len(rows) > 1:
        return name
    row = rows[0]
    return f"{name}: Cliff's delta {row['delta']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"


def _effect_sizes(axes: Axes, rows: Sequence[Row]) -> None:
    pairs = list(dict.fromkeys((row["set_a"], row["set_b"]) for row in rows))
    for index, pair in enumerate(pairs):
        pair_rows = [row for row in rows if (row["set_a"], row["set_b"]) == pair]
        label = f"{pair[1]} against {pair[0]}"
        _intervals(axes, pair_rows, "delta", index, len(pairs), label, list(VISUAL_FACTORS))
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_xlim(-1.05, 1.05)
    axes.set_xlabel("Cliff's delta with its 95 % interval: -1 all lower, 1 all higher")
    axes.set_title("Visual differences between the sets")


def _association(axes: Axes, rows: Sequence[Row]) -> None:
    factors = list(dict.fromkeys(row["factor"] for row in rows))
    predictors = list(dict.fromkeys(row["predictor"] for row in rows))
    for index, predictor in enumerate(predictors):
        series = [row for row in rows if row["predictor"] == predictor]
        label = f"{predictor.replace('_', '-')} ({series[0]['right']} correct, {series[0]['wrong']} wrong)"
        _intervals(axes, series, "area", index, len(predictors), label, factors)
    axes.axvline(0.5, color="0.6", linewidth=0.8)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("P(factor is higher for correct predictions), 95 % interval\n0.5: no association")
    axes.set_title(f"Factors and correct predictions on {rows[0]['set']}")


def _intervals(
    axes: Axes, rows: Sequence[Row], value: str, index: int, series: int, label: str, factors: Sequence[str]
) -> None:
    """Draw one series of values with intervals, one line per factor, with an offset between the series.

    Args:
        axes: Axes.
        rows: Rows of the series, one per factor.
        value: Column of the values.
        index: Number of this series.
        series: Number of all series.
        label: Entry in the legend.
        factors: Names of the factors from top to bottom.
    """
    heights = [factors.index(row["factor"]) + 0.16 * (index - (series - 1) / 2) for row in rows]
    middle = np.array([row[value] for row in rows])
    arms = np.array([[row[value] - row["low"], row["high"] - row[value]] for row in rows]).T
    style: dict[str, Any] = {"markersize": 5, "color": _colour(index), "capsize": 3, "label": label}
    axes.errorbar(middle, heights, xerr=np.maximum(arms, 0), fmt=_marker(index), **style)
    axes.set_yticks(range(len(factors)), [name.replace("_", " ") for name in factors])
    axes.set_ylim(len(factors) - 0.4, -0.6)
    _legend_below(axes)


def _legend_below(axes: Axes) -> None:
    axes.figure.legends.clear()
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, labels, loc="outside lower center", frameon=False, fontsize="small", ncols=2)


def _features(axes: Axes, domains: Sequence[Domain], rows: Sequence[Row]) -> None:
    planes = principal_plane([domain.features for domain in domains])
    for index, (domain, points) in enumerate(zip(domains, planes, strict=True)):
        style: dict[str, Any] = {
            "s": 12,
            "alpha": 0.6,
            "color": _colour(index),
            "linewidths": 0,
            "marker": _marker(index),
        }
        axes.scatter(points[:, 0], points[:, 1], label=domain.name, **style)
    axes.set_xlabel("first principal component of CLIP's video features (unit length)")
    axes.set_ylabel("second")
    errors = [row["value"] for row in rows if row["distance"] == "classifier_error"]
    error = f": a classifier separates the sets with {errors[0]:.0%} error" if len(errors) == 1 else ""
    axes.set_title(f"CLIP features{error}")
    axes.legend(frameon=False, fontsize="small")


def _classes(axes: Axes, rows: Sequence[Row]) -> None:
    pairs = list(dict.fromkeys((row["set"], row["other"]) for row in rows))
    for index, pair in enumerate(pairs):
        cosines = sorted(
            (row["similarity"] for row in rows if (row["set"], row["other"]) == pair), reverse=True
        )
        axes.plot(
            np.arange(1, len(cosines) + 1) / len(cosines),
            cosines,
            markersize=4,
            label=f"classes of {pair[0]} in {pair[1]}",
            marker=_marker(index),
            **_line(index),
        )
    # Cosines between CLIP's class texts are above 0.5. The fixed limit keeps figures comparable, and keeps
    # equal sets a flat line at 1 instead of magnified rounding errors.
    axes.set_ylim(min(0.5, *(row["similarity"] - 0.02 for row in rows)), 1.02)
    axes.set_xlabel("share of classes, in order of similarity")
    axes.set_ylabel("cosine to the nearest class of the other set")
    axes.set_title("Similarity of the label sets in CLIP's text space")
    axes.legend(frameon=False, fontsize="small")


def _zero_shot(axes: Axes, rows: Sequence[Row]) -> None:
    for index, row in enumerate(rows):
        arms = np.maximum([[row["top1"] - row["low"]], [row["high"] - row["top1"]]], 0)
        axes.errorbar(index, row["top1"], yerr=arms, capsize=4, fmt=_marker(index), color=_colour(index))
        label = "chance, 1 / classes" if index == 0 else None
        axes.plot([index - 0.25, index + 0.25], [row["chance"]] * 2, color="0.4", linestyle=":", label=label)
    axes.set_xticks(range(len(rows)), [f"{row['set']}\n{counted(row['classes'], 'class')}" for row in rows])
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylim(0, 1)
    axes.set_ylabel("zero-shot top-1, with its 95 % interval")
    axes.set_title("Zero-shot CLIP against chance")
    axes.legend(frameon=False, fontsize="small")


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def _line(index: int) -> dict[str, Any]:
    return {"color": _colour(index), "linestyle": _LINES[index % len(_LINES)]}
