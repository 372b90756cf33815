"""Tables behind the charts of a study."""

import dataclasses
import math
from typing import Literal

import numpy as np
import pandas as pd

from evclip_ray.formatting import brief_path, short
from evclip_ray.metrics.intervals import wilson_interval
from evclip_ray.records import METRICS
from evclip_ray.results import Study

Kind = Literal["log", "linear", "whole", "category"]

OTHERS = "other trials"
"""Name in the legend of the trials without a colour of their own."""

_NAMED_LINES = 7
"""Number of colours of lines. The last one is grey, and all other trials share it where there are more."""

MAX_EPOCHS = 40
"""Largest number of drawn epochs per curve; half of it with more than 200 curves."""

NOT_SET = -0.1
"""Position on a parallel-coordinates axis of the trials that do not have the setting."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """Axis of a searched setting. `order` has the values of a category."""

    path: str
    kind: Kind
    order: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Title of the axis."""
        return brief_path(self.path) + (" (log scale)" if self.kind == "log" else "")


def history(study: Study) -> pd.DataFrame:
    """Return one row per scored trial in the order of their start: its score, and the best score so far."""
    trials = study.trials
    columns = ["number", "trial", "state", "val_top1", "val_top1_low", "val_top1_high", "val_loss"]
    scored = trials[trials["val_top1"].notna()].sort_values("number")
    scored = scored[[*columns, "settings"]].reset_index(drop=True)
    if scored.empty:
        return scored
    leaders = scored["val_top1"].expanding().apply(lambda scores: int(np.argmax(scores)), raw=True)
    for name in ("val_top1", "val_top1_low", "val_top1_high"):
        scored[f"best_{name.removeprefix('val_')}"] = scored[name].to_numpy()[leaders.to_numpy(int)]
    return scored


def references(study: Study, metric: str, *, chance: bool = False) -> pd.DataFrame:
    """Return the values that need no training, by name: zero-shot CLIP on the trials' validation views.

    Args:
        study: Results.
        metric: "val_top1" or "val_loss".
        chance: Whether to add a guess that gives all classes the same probability. Its accuracy is 1 / N and
            its loss is ln N, where N is the number of classes.
    """
    column = {"val_top1": "top1", "val_loss": "log_loss"}[metric]
    rows = []
    for record in study.zero_shot.to_dict("records"):
        # Zero-shot scores of early versions have no loss.
        if isinstance(value := record.get(column), float) and math.isfinite(value):
            low, high = record["top1_interval"] if metric == "val_top1" else (None, None)
            rows.append({"name": "zero-shot CLIP", "value": value, "low": low, "high": high})
    if chance and (num_classes := len(study.best_record.get("classes") or ())):
        value = 1 / num_classes if metric == "val_top1" else math.log(num_classes)
        rows.append({"name": "chance", "value": value, "low": None, "high": None})
    table = pd.DataFrame(rows, columns=["name", "value", "low", "high"])
    return table.drop_duplicates().reset_index(drop=True)


def axes(study: Study) -> list[Axis]:
    """Return the axes of the searched settings that took more than one value."""
    declared = study.ledger.get("inputs", {}).get("search", {})
    values = {path: study.trials[path].dropna() for path in study.searched}
    return [
        _axis(path, column, str(declared.get(path, "")))
        for path, column in values.items()
        if column.nunique() > 1
    ]


def _axis(path: str, values: pd.Series, declared: str) -> Axis:
    numbers = pd.to_numeric(values, errors="coerce")
    has_flags = values.map(lambda value: isinstance(value, bool)).any()
    if declared.startswith("choice") or numbers.isna().any() or has_flags:
        # Numbers before words: the two cannot be compared with each other.
        ordered = sorted(set(values), key=lambda value: (isinstance(value, str), value))
        return Axis(path, "category", tuple(_category(value) for value in ordered))
    is_wide = numbers.min() > 0 and numbers.max() / numbers.min() >= 20
    if declared.startswith("log") or (is_wide and not declared):
        return Axis(path, "log")
    return Axis(path, "whole" if (numbers % 1 == 0).all() else "linear")


def slices(study: Study, axis: Axis) -> pd.DataFrame:
    """Return one row per scored trial that has the setting: its `value` and its score."""
    trials = study.trials
    scored = trials[trials["val_top1"].notna() & trials[axis.path].notna()]
    setting = scored[axis.path]
    columns = ["trial", "number", "state", "val_top1", "val_top1_low", "val_top1_high"]
    value = setting.map(_category) if axis.kind == "category" else setting.astype(float)
    return scored[columns].assign(value=value).reset_index(drop=True)


def parallel(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the lines and the marks of the parallel coordinates.

    The lines have one row per trial and axis, with the position `place` from 0 to 1 on the axis number `at`.
    The last axis is validation top-1. A setting that a trial does not have is at `NOT_SET`.
    """
    scored = study.trials[study.trials["val_top1"].notna()]
    lines, marks = [], []
    for number, axis in enumerate([*axes(study), Axis("val_top1", "linear")]):
        title = METRICS["val_top1"].title if axis.path == "val_top1" else axis.title
        places, labels = _places(scored[axis.path], axis)
        line = {
            "trial": scored["trial"],
            "axis": title,
            "at": number,
            "place": places,
            "value": scored[axis.path].map(_category),
            "val_top1": scored["val_top1"],
        }
        lines.append(pd.DataFrame(line))
        if scored[axis.path].isna().any():
            labels = [*labels, ("not set", NOT_SET)]
        marks += [{"axis": title, "label": label, "place": place} for label, place in labels]
    return pd.concat(lines, ignore_index=True), pd.DataFrame(marks)


def _places(values: pd.Series, axis: Axis) -> tuple[pd.Series, list[tuple[str, float]]]:
    """Return the positions of values on an axis, and the labels of the axis with their positions."""
    if axis.kind == "category":
        intervals = max(1, len(axis.order) - 1)
        positions = {name: index / intervals for index, name in enumerate(axis.order)}
        return values.map(lambda value: positions.get(_category(value), NOT_SET)), list(positions.items())
    numbers = pd.to_numeric(values)
    scaled = np.log10(numbers) if axis.kind == "log" else numbers
    low, high = scaled.min(), scaled.max()
    extent = high - low if high > low else 1.0
    ends = [(_category(numbers.min()), 0.0), (_category(numbers.max()), float((high - low) / extent))]
    return ((scaled - low) / extent).fillna(NOT_SET), ends if high > low else ends[:1]


def curves(study: Study) -> pd.DataFrame:
    """Return thinned learning curves: one row per drawn epoch of a trial.

    `last` marks the last epochs. `line` is the name in the legend.
    """
    wanted = ["trial", "state", "epoch", "val_top1", "val_loss", "train_loss", "lr"]
    epochs = study.epochs[[name for name in wanted if name in study.epochs]]
    if epochs.empty or "val_top1" not in epochs:
        return pd.DataFrame(columns=[*wanted, "last", "rank", "line"])
    epochs = epochs[epochs["val_top1"].notna()]
    max_epochs = MAX_EPOCHS if epochs["trial"].nunique() <= 200 else MAX_EPOCHS // 2
    thinned = epochs[_is_drawn(epochs["trial"], max_epochs)].copy()
    thinned["last"] = thinned["epoch"] == thinned.groupby("trial")["epoch"].transform("max")
    ranked = thinned.merge(study.trials[["trial", "rank"]], on="trial").reset_index(drop=True)
    return ranked.assign(line=ranked["trial"].map(_line_names(ranked[["trial", "rank"]].drop_duplicates())))


def line_names(curves: pd.DataFrame) -> list[str]:
    """Return the entries of the legend of `curves`: the best trials in order, then `OTHERS`."""
    by_rank = curves[["rank", "line"]].drop_duplicates("line").sort_values("rank")
    return sorted(by_rank["line"], key=lambda name: name == OTHERS)


def _line_names(ranks: pd.DataFrame) -> dict[str, str]:
    """Return the name in the legend by trial.

    Args:
        ranks: Drawn trials with their `rank`.
    """
    trials = ranks.sort_values("rank")["trial"].tolist()
    num_named = len(trials) if len(trials) <= _NAMED_LINES else _NAMED_LINES - 1
    names = {trial: trial if place < num_named else OTHERS for place, trial in enumerate(trials)}
    return {
        trial: f"{name}, the best" if place == 0 else name
        for place, (trial, name) in enumerate(names.items())
    }


def _is_drawn(trials: pd.Series, max_epochs: int) -> pd.Series:
    """Choose at most `max_epochs` rows of each trial, evenly spaced, with the first and the last.

    Row p of a trial is drawn where floor(p (m - 1) / (n - 1)) differs from that of row p - 1,

    where m is `max_epochs` and n the number of rows of the trial.
    """
    groups = trials.groupby(trials)
    position, intervals = groups.cumcount(), (groups.transform("size") - 1).clip(lower=1)
    step = position * (max_epochs - 1) // intervals
    step_before = (position - 1) * (max_epochs - 1) // intervals
    return (step != step_before) | (position == 0)


def confusion(table: pd.DataFrame) -> pd.DataFrame:
    """Convert a confusion table to rows of true, predicted, videos, and share of the true class.

    Args:
        table: One row per true class: its name, then the number of videos by predicted class.
    """
    names = list(table.columns[1:])
    counts = table[names].to_numpy(float)
    totals = counts.sum(1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    true = np.repeat(table.iloc[:, 0].astype(str).to_numpy(), len(names))
    rows = {"true": true, "predicted": np.tile(names, len(table)), "videos": counts.ravel().astype(int)}
    return pd.DataFrame({**rows, "share": share.ravel()})


def gains(per_class: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracies of each class with 95 % intervals, the largest gain first.

    Tables of earlier versions have no intervals; they get Wilson's, as for independent videos.
    """
    classes = per_class[per_class["videos"] > 0].copy()
    classes["gain"] = classes["adapted"] - classes["zero_shot"]
    for name in ("zero_shot", "adapted"):
        if f"{name}_low" in classes:
            continue
        pairs = [
            wilson_interval(round(accuracy * videos), int(videos))
            for accuracy, videos in zip(classes[name], classes["videos"], strict=True)
        ]
        classes[f"{name}_low"], classes[f"{name}_high"] = zip(*pairs, strict=True) if pairs else ((), ())
    return classes.sort_values(["gain", "class"], ascending=[False, True]).reset_index(drop=True)


def _category(value: object) -> str:
    return short(value, missing="not set")
