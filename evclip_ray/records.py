"""Records that cross layers: epoch metrics, trials and leaderboard rows, and the table of all epoch metrics.

The training loop writes one `EpochMetrics` per epoch. A study reads them back as the history of a
`TrialRecord` and ranks its trials as `LeaderboardRow`s. `METRICS` describes each metric once, for
TensorBoard, the leaderboard, the terminal and the report. To add a metric: add a row to `METRICS` and put
its value into the record that the loop writes.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, Self

from evclip_ray.formatting import counted
from evclip_ray.objective import OF_OLD_STUDIES, window


class TrialState(StrEnum):
    """State of a trial, as written in its `result.json`. A trial without that file is running."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETE = "complete"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    FAILED = "failed"

    @property
    def has_ended(self) -> bool:
        """Whether the trial will not go on: it is neither running nor paused."""
        return self not in (TrialState.RUNNING, TrialState.PAUSED)

    @property
    def has_final_score(self) -> bool:
        """Whether the trial ended with a score that counts, also if it was stopped early or diverged."""
        return self.has_ended and self is not TrialState.FAILED


@dataclasses.dataclass(frozen=True)
class Metric:
    """Description of one metric of an epoch.

    Args:
        name: Key in `history.jsonl` and column of `Study.epochs`.
        tag: TensorBoard tag; empty for a metric that is not drawn.
        label: Short name for headings and legends.
        column: Column of `leaderboard.csv` and `Study.trials`; empty for none.
        unit: Unit, empty for a share or a count.
        direction: Which values are better. TensorBoard compares the runs of a study by the metrics that
            have a direction.
    """

    name: str
    tag: str = ""
    label: str = ""
    column: str = ""
    unit: str = ""
    direction: Literal["max", "min", ""] = ""

    @property
    def title(self) -> str:
        """Title of an axis: "validation loss, nats"."""
        split = "validation " if self.name.startswith("val_") else ""
        return f"{split}{self.label}" + (f", {self.unit}" if self.unit else "")


_TABLE = (
    Metric("epoch",          "",                    "epoch"),
    Metric("train_loss",     "train/loss",          "training loss",     unit="nats", direction="min"),
    Metric("grad_norm",      "run/grad_norm",       "gradient norm"),
    Metric("lr",             "run/lr",              "learning rate"),
    Metric("step_seconds",   "run/step_seconds",    "training step",     "step_seconds", "s"),
    Metric("wait_seconds",   "run/wait_seconds",    "wait of a step for its batch", "wait_seconds", "s"),
    Metric("matrix_share",   "run/matrix_share",    "share of the matrix rate", "matrix_share"),
    Metric("bare_share",     "run/bare_share",      "share of the bare model's speed", "bare_share"),
    Metric("wait_share",     "run/wait_share",      "share of waiting for input", "wait_share"),
    Metric("train_seconds",  "train/seconds",       "training time",     "train_seconds", "s"),
    Metric("val_top1",       "val/top1",            "top-1",             "val_top1", direction="max"),
    Metric("val_top5",       "val/top5",            "top-5",             "val_top5", direction="max"),
    Metric("val_loss",       "val/loss",            "loss",              "val_loss", "nats", "min"),
    Metric("mask_coverage",  "mask/coverage",       "mask coverage"),
    Metric("mask_entropy",   "mask/entropy",        "mask entropy"),
    Metric("mask_drift",     "mask/drift",          "mask change"),
    Metric("best_val_top1",  "val/best_top1",       "best top-1",        direction="max"),
    # Loss of the epoch with the best top-1, not the lowest loss: it has no direction.
    Metric("best_val_loss",  "val/best_loss",       "loss of the best epoch", unit="nats"),
    Metric("best_epoch",     "run/best_epoch",      "best epoch",        "best_epoch"),
    Metric("zero_shot_top1", "val/zero_shot_top1",  "zero-shot",         "zero_shot_top1"),
    Metric("train_videos",   "",                    "training videos"),
    Metric("val_videos",     "",                    "validation videos"),
    Metric("leaking_rows",   "",                    "leaking rows",      "leaking_rows"),
    Metric("seconds",        "run/seconds",         "seconds",           "seconds", "s"),
)  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Metrics of an epoch by name. A method's loss terms are not listed, see `EpochMetrics.loss_terms`."""
SPEED_SHARES = ("matrix_share", "bare_share", "wait_share")
"""Speed of an epoch's training steps relative to what its device can do, see `training.speed`."""
SPEED = ("step_seconds", "wait_seconds", *SPEED_SHARES)
"""Metrics of speed. A trial has the median of its epochs, since the first one contains the warm-up."""


@dataclasses.dataclass(frozen=True)
class EpochMetrics:
    """Metrics of one epoch: one line of `history.jsonl`, or a run without a finished epoch if empty.

    `values` holds the line as it is on disk: the order of its keys, and keys that only other versions of
    this package know. The properties tolerate keys that older versions did not write.
    """

    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Wrap a decoded line of `history.jsonl`, or a result that Tune passes on."""
        return cls(dict(record))

    def to_record(self) -> dict[str, Any]:
        """Return the plain mapping, for JSON and for Tune."""
        return dict(self.values)

    def __getitem__(self, name: str) -> Any:
        """Return a metric by name, as it is on disk."""
        return self.values[name]

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 1; 0 if none is finished."""
        return int(self.values.get("epoch", 0))

    @property
    def diverged(self) -> bool:
        """Whether the run ended in this epoch because a loss or a logit was not finite."""
        return bool(self.values.get("diverged"))

    @property
    def val_top1(self) -> float:
        """Validation top-1; NaN if the epoch has none."""
        return self.number("val_top1")

    @property
    def best_val_top1(self) -> float:
        """Best validation top-1 up to this epoch; 0 before the first finished epoch."""
        return float(self.values.get("best_val_top1") or 0.0)

    @property
    def best_epoch(self) -> int:
        """Number of the best epoch, from 1; 0 if no epoch has a score."""
        return int(self.values.get("best_epoch") or 0)

    @property
    def val_videos(self) -> int:
        """Number of validation videos."""
        return int(self.values.get("val_videos", 0))

    @property
    def loss_terms(self) -> dict[str, float]:
        """The method's loss terms by name, read from the keys `train_<term>`."""
        terms = [name for name in self.values if name.startswith("train_") and name not in METRICS]
        return {name.removeprefix("train_"): self.values[name] for name in terms}

    def number(self, name: str, missing: float = math.nan) -> float:
        """Return a metric as a float; `missing` if the epoch does not have it or it is null."""
        # JSON has no NaN: a missing number is null there. `best_val_loss` is null before the first finished
        # epoch.
        value = self.values.get(name)
        return missing if value is None else float(value)


def objective_of(history: Sequence[EpochMetrics], objective: str) -> float:
    """Return the objective after the last epoch of `history`, see `evclip_ray.objective`.

    It is 0 before the first epoch. `last` and `mean_of_last_K` are 0 for a run that diverged, because its
    last checkpoint is useless.

    Args:
        history: Metrics of each finished epoch.
        objective: Name of the objective.
    """
    if not history:
        return 0.0
    size = window(objective)
    # The loop has already chosen the best epoch, also among epochs of equal top-1.
    if size is None:
        return history[-1].best_val_top1
    mean = _mean(history[-size:], "val_top1")
    return mean if math.isfinite(mean) else 0.0


def _mean(history: Sequence[EpochMetrics], name: str) -> float:
    return sum(epoch.number(name) for epoch in history) / len(history)


_SCORES_OF_AN_EPOCH = ("val_top1", "val_top5", "val_loss")


@dataclasses.dataclass(frozen=True)
class TrialRecord:
    """A trial of a study as its folder has it: point, state, and the metrics of each finished epoch.

    `objective` is that of the study.
    """

    trial: str
    overrides: dict[str, Any]
    state: TrialState = TrialState.RUNNING
    error: str | None = None
    history: tuple[EpochMetrics, ...] = ()
    objective: str = OF_OLD_STUDIES

    @property
    def values_by_epoch(self) -> dict[int, float]:
        """Objective after each epoch."""
        return {
            epoch.epoch: objective_of(self.history[:number], self.objective)
            for number, epoch in enumerate(self.history, start=1)
        }

    @property
    def last(self) -> EpochMetrics:
        """Metrics of the last epoch; empty if no epoch is finished."""
        return self.history[-1] if self.history else EpochMetrics()

    @property
    def best(self) -> EpochMetrics:
        """Metrics that the objective refers to; empty if their validation top-1 is missing or not finite.

        They are those of the best epoch, or of the last one. For `mean_of_last_K`, the scores are means over
        epochs and the other metrics are those of the last epoch.
        """
        size = window(self.objective)
        if size is not None and self.history:
            means = {name: _mean(self.history[-size:], name) for name in _SCORES_OF_AN_EPOCH}
            last = EpochMetrics({**self.last.values, **means})
            return last if math.isfinite(last.val_top1) else EpochMetrics()
        # The last line names the best epoch, and the history has one line per epoch from 1, so the index is
        # exact.
        number = self.last.best_epoch
        best = self.history[number - 1] if number else EpochMetrics()
        return best if math.isfinite(best.val_top1) else EpochMetrics()


@dataclasses.dataclass(frozen=True)
class LeaderboardRow:
    """One trial on the leaderboard. The scores are those of the study's objective, by default its best epoch.

    `best_epoch` is the epoch of the trial's checkpoint: the best one, or the last one if the objective is
    another one than `best`. A trial without a finished epoch (`best_epoch` 0) has scores of 0 and an infinite
    loss, so that it is ranked last; tables leave these cells empty. `point_*` are over all seeds of the
    trial's point. `corrected_*` are the score after the correction for the choice among trials and epochs.
    Only the first row has them, with `chosen_from`, or with the reason of their absence in `corrected_note`.
    `selection` and the numbers of videos are those of its runs, see `DataConfig.selection`. `conditions` are
    the precision and the device of its last epoch, empty for a trial of an earlier version. `extra` holds the
    further metrics that have a column in `METRICS`; those of speed are medians of its epochs.
    """

    trial: str
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    state: TrialState = TrialState.RUNNING
    error: str | None = None
    rank: int = 0
    val_top1: float = 0.0
    val_top1_low: float = math.nan
    val_top1_high: float = math.nan
    zero_shot_top1: float = math.nan
    val_top5: float = 0.0
    val_loss: float = math.inf
    best_epoch: int = 0
    epochs: int = 0
    last_top1: float = 0.0
    leaking_rows: int = 0
    train_seconds: float = 0.0
    seconds: float = 0.0
    point_seeds: int = 0
    point_top1: float = 0.0
    point_top1_low: float = math.nan
    point_top1_high: float = math.nan
    corrected_top1: float = math.nan
    corrected_top1_low: float = math.nan
    corrected_top1_high: float = math.nan
    chosen_from: str = ""
    corrected_note: str = ""
    selection: str = ""
    train_videos: int | None = None
    val_videos: int = 0
    val_per_train: float = math.nan
    conditions: str = ""
    extra: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def columns(self) -> dict[str, Any]:
        """Return the columns of `leaderboard.csv` before those of the searched settings, in order."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in _NOT_COLUMNS]
        own = {name: getattr(self, name) for name in ("rank", "trial", "state", *names)}
        return {**own, "state": str(self.state), **self.extra}


_NOT_COLUMNS = {"rank", "trial", "state", "overrides", "error", "extra"}


def scored_on(selections: Collection[Mapping[str, Any]]) -> str:
    """Return what scores the trials of a study, without the numbers of videos.

    >>> scored_on([]), scored_on([{"folds": 4}])
    ('validation split', '4-fold cross-validation')

    Args:
        selections: Selection of each variant of the videos, from the ledger of the study. Studies of earlier
            versions have none.
    """
    folds = sorted({selection["folds"] for selection in selections}) or [0]
    named = [f"{count}-fold cross-validation" if count else "validation split" for count in folds]
    return " or ".join(named)


def selection_ratio(selection: Mapping[str, Any]) -> str:
    """Return the numbers of videos of a selection and their ratio.

    >>> selection_ratio({"folds": 0, "val_videos": 3, "train_videos": 15, "val_per_train": 0.2})
    '3 videos for 15 training videos (ratio 0.20)'
    """
    counts = (
        f"{counted(selection['val_videos'], 'video')} for "
        f"{counted(selection['train_videos'], 'training video')}"
    )
    if selection["folds"]:
        counts = f"{counted(selection['train_videos'], 'training video')}"
    return f"{counts} (ratio {selection['val_per_train']:.2f})"


def choice_lines(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the two scores of the best trial by name: as chosen, and corrected for the choice.

    Args:
        row: Columns of the first row of a leaderboard. The result is empty without a choice.
    """
    if not row["chosen_from"]:
        return {}
    best, corrected = (_score(row, name) for name in ("val_top1", "corrected_top1"))
    return {
        f"best of {row['chosen_from']}, optimistic": best,
        "corrected for the choice": f"missing: {note}" if (note := row["corrected_note"]) else corrected,
    }


def _score(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"top-1 {row[name]:.3f} (95 % interval {low:.2f} to {high:.2f})"


def is_random(weights: str) -> bool:
    """Return whether an origin of weights is that of untrained ones."""
    # An unusual activation follows the origin in parentheses.
    return weights.split(" ")[0] == "random"


def random_weights_warning(weights: Mapping[str, str]) -> str | None:
    """Return the warning about random weights, or None if all weights are trained ones.

    Args:
        weights: Origin of each network's weights, by part: `{"clip": "random"}`.
    """
    parts = " and ".join(part for part, origin in weights.items() if is_random(origin))
    if not parts:
        return None
    return (
        f"RANDOM WEIGHTS in {parts}: these numbers do not reflect a trained CLIP. Trained weights are set by "
        "backbone.pretrained (CLIP) and method.video_encoder.weights (video encoder)."
    )


def other_weights(recorded: Mapping[str, str], present: Mapping[str, str]) -> str:
    """Describe each network whose weights differ: the recorded ones, the present ones, and the fix.

    Args:
        recorded: Origin of each network's weights in a record.
        present: The same, now.
    """
    parts = {**recorded, **present}
    origins = {part: (recorded.get(part, "none"), present.get(part, "none")) for part in parts}
    return ", ".join(
        f"{part} was {before} and is {now} ({_fix_for(part, before, now)})"
        for part, (before, now) in origins.items()
        if before != now
    )


def _fix_for(part: str, recorded: str, present: str) -> str:
    # An unusual activation follows the origin in parentheses.
    is_same_file = recorded.split(" ")[0] == present.split(" ")[0]
    # The files of the small world come with the package, and no setting selects those of another version.
    if recorded.startswith("world:") and present.startswith("world:") and not is_same_file:
        return "weights of another version of evclip-ray: install that version, or train again"
    if part == "clip":
        return "backbone.pretrained and backbone.activation select them"
    return "method.video_encoder.weights selects them"
