"""Figures of a domain shift: the distributions of each factor, effect sizes, features, classes, associations.

Draws what `evaluation.domain_shift` computed, off screen, into PNG files. A set has one colour and one line
style throughout; the colours are those that Okabe and Ito chose to be told apart by everybody.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evclip_ray.artifacts import replacing
from evclip_ray.domain_shift.compare import Domain, Row, Tables
from evclip_ray.domain_shift.feature_distance import principal_plane
from evclip_ray.domain_shift.visual_factors import VISUAL_FACTORS

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
_MARKERS = "osD^vP*"
_PIXELS_PER_INCH = 150

Draw = Callable[[Axes], None]


def draw_shift(folder: Path, domains: Sequence[Domain], tables: Tables) -> list[Path]:
    """Write a figure for each factor and family of factors; their paths.

    `tables`: of `domain_shift.compare`, with `association` where there were predictions.
    """
    drawn = []
    for factor in VISUAL_FACTORS:
        draw = functools.partial(_distribution, domains=domains, tables=tables, factor=factor)
        drawn.append(_save(folder / f"{factor}.png", draw))
    drawn.append(_save(folder / "effect_sizes.png", lambda axes: _effect_sizes(axes, tables["visual"])))
    drawn.append(_save(folder / "features.png", lambda axes: _features(axes, domains, tables["features"])))
    drawn.append(_save(folder / "classes.png", lambda axes: _classes(axes, tables["nearest"])))
    drawn.append(_save(folder / "zero_shot.png", lambda axes: _zero_shot(axes, tables["semantic"])))
    if tables.get("association"):
        rows = tables["association"]
        drawn.append(_save(folder / "association.png", lambda axes: _association(axes, rows)))
    return drawn


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
    for place, domain in enumerate(domains):
        values = np.sort(domain.visual[factor])
        share = np.arange(1, len(values) + 1) / len(values)
        median = float(np.median(values))
        axes.step(
            values, share, where="post", color=_colour(place), linestyle=_LINES[place % len(_LINES)],
            label=f"{domain.name} (median {median:.3g}, {len(values)} videos)",
        )  # fmt: skip
        axes.plot(median, 0.5, marker=_MARKERS[place % len(_MARKERS)], color=_colour(place))
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
    for place, pair in enumerate(pairs):
        own = [row for row in rows if (row["set_a"], row["set_b"]) == pair]
        label = f"{pair[1]} against {pair[0]}"
        _intervals(axes, own, "delta", place, len(pairs), label, list(VISUAL_FACTORS))
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_xlim(-1.05, 1.05)
    axes.set_xlabel("Cliff's delta with its 95 % interval: -1 all lower, 1 all higher")
    axes.set_title("How the sets differ to the eye")


def _association(axes: Axes, rows: Sequence[Row]) -> None:
    factors = list(dict.fromkeys(row["factor"] for row in rows))
    predictors = list(dict.fromkeys(row["predictor"] for row in rows))
    for place, predictor in enumerate(predictors):
        own = [row for row in rows if row["predictor"] == predictor]
        label = f"{predictor.replace('_', '-')} ({own[0]['right']} right, {own[0]['wrong']} wrong)"
        _intervals(axes, own, "area", place, len(predictors), label, factors)
    axes.axvline(0.5, color="0.6", linewidth=0.8)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("P(factor is higher where right), 95 % interval; 0.5: nothing")
    axes.set_title(f"What goes with a right answer on {rows[0]['set']}")


def _intervals(
    axes: Axes, rows: Sequence[Row], value: str, place: int, series: int, label: str, factors: Sequence[str]
) -> None:
    """One series of values with intervals, a line a factor, beside the other series."""
    heights = [factors.index(row["factor"]) + 0.16 * (place - (series - 1) / 2) for row in rows]
    middle = np.array([row[value] for row in rows])
    reach = np.array([[row[value] - row["low"], row["high"] - row[value]] for row in rows]).T
    axes.errorbar(
        middle, heights, xerr=np.maximum(reach, 0), fmt=_MARKERS[place % len(_MARKERS)], markersize=5,
        color=_colour(place), capsize=3, label=label,
    )  # fmt: skip
    axes.set_yticks(range(len(factors)), [name.replace("_", " ") for name in factors])
    axes.set_ylim(len(factors) - 0.4, -0.6)
    _legend_below(axes)


def _legend_below(axes: Axes) -> None:
    axes.figure.legends.clear()
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, labels, loc="outside lower center", frameon=False, fontsize="small", ncols=2)


def _features(axes: Axes, domains: Sequence[Domain], rows: Sequence[Row]) -> None:
    planes = principal_plane([domain.features for domain in domains])
    for place, (domain, points) in enumerate(zip(domains, planes, strict=True)):
        axes.scatter(
            points[:, 0], points[:, 1], s=12, alpha=0.6, color=_colour(place), linewidths=0,
            marker=_MARKERS[place % len(_MARKERS)], label=domain.name,
        )  # fmt: skip
    axes.set_xlabel("first principal component of CLIP's video features (unit length)")
    axes.set_ylabel("second")
    errors = [row["value"] for row in rows if row["distance"] == "classifier_error"]
    told = f": told apart with {errors[0]:.0%} error" if len(errors) == 1 else ""
    axes.set_title(f"What CLIP sees{told}")
    axes.legend(frameon=False, fontsize="small")


def _classes(axes: Axes, rows: Sequence[Row]) -> None:
    pairs = list(dict.fromkeys((row["set"], row["other"]) for row in rows))
    for place, pair in enumerate(pairs):
        own = sorted((row["similarity"] for row in rows if (row["set"], row["other"]) == pair), reverse=True)
        axes.plot(
            np.arange(1, len(own) + 1) / len(own), own, color=_colour(place), markersize=4,
            linestyle=_LINES[place % len(_LINES)], marker=_MARKERS[place % len(_MARKERS)],
            label=f"classes of {pair[0]} in {pair[1]}",
        )  # fmt: skip
    # CLIP's cosines fill the upper half; a fixed one keeps figures comparable, and equal sets at a flat line.
    axes.set_ylim(min(0.5, *(row["similarity"] - 0.02 for row in rows)), 1.02)
    axes.set_xlabel("share of classes, the nearest first")
    axes.set_ylabel("cosine to the nearest class of the other set")
    axes.set_title("How near the label sets are in CLIP's text space")
    axes.legend(frameon=False, fontsize="small")


def _zero_shot(axes: Axes, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        reach = [[row["top1"] - row["low"]], [row["high"] - row["top1"]]]
        axes.errorbar(
            place, row["top1"], yerr=np.maximum(reach, 0), capsize=4,
            fmt=_MARKERS[place % len(_MARKERS)], color=_colour(place),
        )  # fmt: skip
        label = "chance, 1 / classes" if place == 0 else None
        axes.plot([place - 0.25, place + 0.25], [row["chance"]] * 2, color="0.4", linestyle=":", label=label)
    axes.set_xticks(range(len(rows)), [f"{row['set']}\n{row['classes']} classes" for row in rows])
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylim(0, 1)
    axes.set_ylabel("zero-shot top-1, with its 95 % interval")
    axes.set_title("Zero-shot CLIP against chance")
    axes.legend(frameon=False, fontsize="small")


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]
