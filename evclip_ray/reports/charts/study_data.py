"""The numbers behind the charts of a study, apart from drawing."""

import dataclasses
from typing import Literal

import numpy as np
import pandas as pd

from evclip_ray.formatting import brief_path, short
from evclip_ray.metrics.intervals import wilson_interval
from evclip_ray.results import Study

Kind = Literal["log", "linear", "whole", "category"]

MOST_EPOCHS = 40
"""Epochs of a curve that are drawn, at most; a thousand curves have half as many."""

NOT_SET = -0.1
"""Where a setting that a trial does not have crosses its axis of the parallel coordinates."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """How a searched setting is laid out. `order`: the values of a category."""

    path: str
    kind: Kind
    order: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What stands beside it."""
        return brief_path(self.path) + (" (log scale)" if self.kind == "log" else "")


def history(study: Study) -> pd.DataFrame:
    """A row a scored trial in the order that they began: its score, and the best up to it."""
    trials = study.trials
    frame = trials[trials["val_top1"].notna()].sort_values("number")
    columns = [
        "number",
        "trial",
        "state",
        "val_top1",
        "val_top1_low",
        "val_top1_high",
        "val_loss",
        "settings",
    ]
    frame = frame[columns].reset_index(drop=True)
    if frame.empty:
        return frame
    leaders = frame["val_top1"].expanding().apply(lambda seen: int(np.argmax(seen)), raw=True).astype(int)
    for name in ("val_top1", "val_top1_low", "val_top1_high"):
        frame[f"best_{name.removeprefix('val_')}"] = frame[name].to_numpy()[leaders.to_numpy()]
    return frame


def baselines(study: Study) -> pd.DataFrame:
    """Zero-shot CLIP's scores on the trials' validation views: a row each, with its interval."""
    found = study.zero_shot
    if found.empty:
        return pd.DataFrame(columns=["name", "top1", "low", "high"])
    frame = pd.DataFrame(
        {
            "name": "zero-shot CLIP",
            "top1": found["top1"],
            "low": [pair[0] for pair in found["top1_interval"]],
            "high": [pair[1] for pair in found["top1_interval"]],
        }
    )
    return frame.drop_duplicates().sort_values("top1").reset_index(drop=True)


def axes(study: Study) -> list[Axis]:
    """The searched settings that took more than one value, as axes."""
    declared = study.ledger.get("inputs", {}).get("search", {})
    found = []
    for path in study.searched:
        values = study.trials[path].dropna()
        if values.nunique() > 1:
            found.append(_axis(path, values, str(declared.get(path, ""))))
    return found


def _axis(path: str, values: pd.Series, declared: str) -> Axis:
    numbers = pd.to_numeric(values, errors="coerce")
    if (
        declared.startswith("choice")
        or numbers.isna().any()
        or values.map(lambda v: isinstance(v, bool)).any()
    ):
        known = sorted(set(values), key=lambda v: (isinstance(v, str), v))
        return Axis(path, "category", tuple(_category(value) for value in known))
    wide = numbers.min() > 0 and numbers.max() / numbers.min() >= 20
    if declared.startswith("log") or (wide and not declared):
        return Axis(path, "log")
    return Axis(path, "whole" if (numbers % 1 == 0).all() else "linear")


def slices(study: Study, axis: Axis) -> pd.DataFrame:
    """A row a scored trial that has the setting: its value and its score."""
    trials = study.trials
    frame = trials[trials["val_top1"].notna() & trials[axis.path].notna()]
    value = frame[axis.path]
    columns = ["trial", "number", "state", "val_top1", "val_top1_low", "val_top1_high"]
    shown = value.map(_category) if axis.kind == "category" else value.astype(float)
    return frame[columns].assign(value=shown).reset_index(drop=True)


def parallel(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lines of the parallel coordinates, a row a trial and axis with its place in 0..1; and the axes' marks.

    The last axis is validation top-1. A setting that a trial does not have is at `NOT_SET`.
    """
    scored = study.trials[study.trials["val_top1"].notna()]
    lines, marks = [], []
    for at, axis in enumerate([*axes(study), Axis("val_top1", "linear")]):
        title = "validation top-1" if axis.path == "val_top1" else axis.title
        places, own = _places(scored[axis.path], axis)
        lines.append(
            pd.DataFrame(
                {
                    "trial": scored["trial"],
                    "axis": title,
                    "at": at,
                    "place": places,
                    "value": scored[axis.path].map(_category),
                    "val_top1": scored["val_top1"],
                }
            )
        )
        if scored[axis.path].isna().any():
            own = [*own, ("not set", NOT_SET)]
        marks += [{"axis": title, "label": label, "place": place} for label, place in own]
    return pd.concat(lines, ignore_index=True), pd.DataFrame(marks)


def _places(values: pd.Series, axis: Axis) -> tuple[pd.Series, list[tuple[str, float]]]:
    if axis.kind == "category":
        steps = max(1, len(axis.order) - 1)
        at = {name: place / steps for place, name in enumerate(axis.order)}
        return values.map(lambda value: at.get(_category(value), NOT_SET)), list(at.items())
    numbers = pd.to_numeric(values)
    scaled = np.log10(numbers) if axis.kind == "log" else numbers
    low, high = scaled.min(), scaled.max()
    reach = high - low if high > low else 1.0
    ends = [(_category(numbers.min()), 0.0), (_category(numbers.max()), float((high - low) / reach))]
    return ((scaled - low) / reach).fillna(NOT_SET), ends if high > low else ends[:1]


def curves(study: Study) -> pd.DataFrame:
    """Learning curves, thinned: a row a drawn epoch of a trial, and whether it is the `last`."""
    epochs = study.epochs
    wanted = ["trial", "state", "epoch", "val_top1", "val_loss", "train_loss", "lr"]
    frame = epochs[[name for name in wanted if name in epochs]].copy()
    if frame.empty or "val_top1" not in frame:
        return pd.DataFrame(columns=[*wanted, "rank", "last"])
    frame = frame[frame["val_top1"].notna()]
    most = MOST_EPOCHS if frame["trial"].nunique() <= 200 else MOST_EPOCHS // 2
    frame = frame[_is_kept(frame["trial"], most)].copy()
    frame["last"] = frame["epoch"] == frame.groupby("trial")["epoch"].transform("max")
    return frame.merge(study.trials[["trial", "rank"]], on="trial").reset_index(drop=True)


def _is_kept(trials: pd.Series, most: int) -> pd.Series:
    """Which rows to draw: at most `most` of each trial, evenly, the first and the last among them.

    Row p of n is kept where floor(p (most - 1) / (n - 1)) is not that of the row before.
    """
    own = trials.groupby(trials)
    place, steps = own.cumcount(), (own.transform("size") - 1).clip(lower=1)
    now, before = place * (most - 1) // steps, (place - 1) * (most - 1) // steps
    return (now != before) | (place == 0)


def confusion(table: pd.DataFrame) -> pd.DataFrame:
    """A confusion table, the true class first, as rows of true, predicted, videos, share of the true."""
    names = list(table.columns[1:])
    counts = table[names].to_numpy(float)
    totals = counts.sum(1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    true = np.repeat(table.iloc[:, 0].astype(str).to_numpy(), len(names))
    return pd.DataFrame(
        {
            "true": true, "predicted": np.tile(names, len(table)),
            "videos": counts.ravel().astype(int), "share": share.ravel(),
        }
    )  # fmt: skip


def gains(per_class: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each class before and after, with 95 % Wilson intervals, the largest gain first."""
    frame = per_class[per_class["videos"] > 0].copy()
    frame["gain"] = frame["adapted"] - frame["zero_shot"]
    for name in ("zero_shot", "adapted"):
        pairs = [
            wilson_interval(round(value * videos), int(videos))
            for value, videos in zip(frame[name], frame["videos"], strict=True)
        ]
        frame[f"{name}_low"], frame[f"{name}_high"] = zip(*pairs, strict=True) if pairs else ((), ())
    return frame.sort_values(["gain", "class"], ascending=[False, True]).reset_index(drop=True)


def _category(value: object) -> str:
    return short(value, missing="not set")
