"""Measures of a calibration on evaluated videos, before and after, with 95 % intervals over groups."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evclip_ray.formatting import counted, sample_size, with_interval
from evclip_ray.metrics.calibration import Calibration, softmax
from evclip_ray.metrics.classification import NUM_BINS, bin_of
from evclip_ray.metrics.intervals import Interval, accuracy_interval, small_sample_factor
from evclip_ray.metrics.rejection import RiskCoverage
from evclip_ray.metrics.scoring import Scores

BIN_COLUMNS = ("scored", "low", "high", "videos", "confidence", "accuracy")
_SCORED = ("before", "after")


@dataclasses.dataclass(frozen=True)
class CalibrationMeasures:
    """Measures of a calibration on V videos.

    Attributes:
        calibration: The calibration.
        bins: One row per non-empty bin of confidence, before and after, see `BIN_COLUMNS`.
        curve: Risk-coverage curve of the calibrated probabilities.
        record: Numbers with intervals, JSON values.
    """

    calibration: Calibration
    bins: list[list[Any]]
    curve: RiskCoverage
    record: dict[str, Any]


def measure_calibration(
    calibration: Calibration,
    scores: Scores,
    classes: tuple[str, ...],
    groups: NDArray[np.int64] | None = None,
    *,
    videos: str | None = None,
) -> CalibrationMeasures:
    """Measure a calibration on evaluated videos.

    Args:
        calibration: Calibration of the checkpoint.
        scores: Scores of V videos.
        classes: Class names of the scores; for others than the checkpoint's, see `Calibration.for_classes`.
        groups: (V,) number of each video's group; None if the videos are independent.
        videos: Digest of the videos, to recognise those that the calibration was fitted on.
    """
    whole, calibration = calibration, calibration.for_classes(classes)
    validation = calibration.validation
    probabilities = calibration.probabilities(scores.logits)
    both = softmax(scores.logits), probabilities
    confidence = probabilities.max(axis=1)
    curve = RiskCoverage.of(confidence, scores.right)
    states = [_ece_parts(each, scores) for each in both]
    losses = [
        Scores(scores.logits / temperature, scores.labels).log_loss
        for temperature in (1.0, calibration.temperature)
    ]
    errors = [sums_interval(parts, _ece, groups) for parts in states]
    log_losses = [sums_interval(_with_ones(loss), _mean, groups) for loss in losses]
    change = sums_interval(np.concatenate(states, axis=1), _ece_change, groups)
    record = {
        "temperature": calibration.temperature,
        "calibration_error": [value for value, _ in errors],
        "calibration_error_interval": [_cut(interval, 0, 1) for _, interval in errors],
        "calibration_error_change": change[0],
        "calibration_error_change_interval": _cut(change[1], -1, 1),
        "log_loss": [value for value, _ in log_losses],
        "log_loss_interval": [_cut(interval, 0, np.inf) for _, interval in log_losses],
        "area_under_risk_coverage": curve.area,
        "rejection": _rejection(calibration, probabilities, scores, groups),
        "conformal": _conformal(calibration, probabilities, scores, groups),
        "temperature_only": calibration != whole.model_copy(update={"classes": calibration.classes}),
        "is_fit_data": validation is not None and videos is not None and validation.videos == videos,
        "validation": validation and validation.model_dump(mode="json"),
    }
    bins = [row for name, each in zip(_SCORED, both, strict=True) for row in _bins(name, each, scores)]
    return CalibrationMeasures(calibration, bins, curve, record)


def sums_interval(
    parts: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    groups: NDArray[np.int64] | None = None,
    *,
    resamples: int = 2000,
) -> tuple[float, Interval | None]:
    """Return a statistic of sums over videos, and its 95 % basic bootstrap interval over groups.

        v - f (high - v), v + f (v - low)

    where v is the statistic of all videos, low and high are percentiles of the statistics of samples of whole
    groups, and f is the factor of `bootstrap_interval`.

    The calibration error of few videos is too high, because the noise of every bin adds to it. That of a
    sample is too high once more. The basic bootstrap mirrors the percentiles, which removes this bias.

    Args:
        parts: (V, K) summands of each video.
        statistic: Function from sums (..., K) to values (...).
        groups: (V,) number of each video's group; None if the videos are independent.
        resamples: Number of bootstrap samples.

    Returns:
        The value and its interval; None for fewer than two groups.
    """
    value = float(statistic(parts.sum(axis=0)))
    _, group = np.unique(np.arange(len(parts)) if groups is None else groups, return_inverse=True)
    sizes = np.bincount(group)
    count = len(sizes)
    if count < 2:
        return value, None
    sums = np.zeros((count, parts.shape[1]))
    np.add.at(sums, group, parts)
    rng, values = np.random.default_rng(0), []
    # Batches keep the memory at 40 MB: 50,000 groups would take 800 MB at once.
    batch = max(1, 5_000_000 // count)
    for start in range(0, resamples, batch):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(batch, resamples - start))
        values.append(statistic(drawn @ sums))
    low, high = np.quantile(np.concatenate(values), [0.025, 0.975]).tolist()
    factor = small_sample_factor(count)
    bounds = value - factor * (high - value), value + factor * (value - low)
    # The mirrored percentiles can leave the value out, which would be hard to read.
    return value, (min(value, bounds[0]), max(value, bounds[1]))


def calibration_lines(record: dict[str, Any]) -> list[str]:
    """Return lines about the measures of a calibration, for the terminal.

    Args:
        record: `CalibrationMeasures.record`.
    """
    fitted = ""
    if record["validation"]:
        number, groups = record["validation"]["num_videos"], record["validation"]["num_groups"]
        fitted = f", fitted on validation data ({sample_size(number, groups)})"
    lines = [f"calibration     temperature {record['temperature']:.3g}{fitted}", *calibration_remarks(record)]
    for key, name in (("calibration_error", "calibration error"), ("log_loss", "log loss")):
        before, after = (
            _with_interval(value, interval)
            for value, interval in zip(record[key], record[f"{key}_interval"], strict=True)
        )
        lines.append(f"{name} {before} before, {after} after")
    if rejection := record["rejection"]:
        risk = "no video is accepted"
        if rejection["risk"] is not None:
            risk = f"the error among them is {_with_interval(rejection['risk'], rejection['risk_interval'])}"
        accepted = _with_interval(rejection["coverage"], rejection["coverage_interval"])
        lines.append(
            f"unknown below {rejection['unknown_below']:.3f}: {accepted} of the videos are accepted, {risk}"
        )
    lines.append(f"area under the risk-coverage curve {record['area_under_risk_coverage']:.3f}")
    if conformal := record["conformal"]:
        coverage = _with_interval(conformal["coverage"], conformal["coverage_interval"])
        size = _with_interval(conformal["mean_size"], conformal["mean_size_interval"])
        every = ", because the validation videos are too few for the level" * conformal["every_class"]
        lines.append(
            f"conformal sets at level {conformal['level']:g}: they hold the true class in {coverage} of the "
            f"videos, mean size {size} of {counted(conformal['classes'], 'class')}{every}"
        )
    return lines


def calibration_remarks(record: dict[str, Any]) -> list[str]:
    """Return reasons to doubt a calibration or its measures.

    Args:
        record: `CalibrationMeasures.record`.
    """
    remarks = list(record["validation"]["warnings"]) if record["validation"] else []
    if record["is_fit_data"]:
        remarks.append("the calibration was fitted on these videos: its numbers are too good")
    if record["temperature_only"]:
        remarks.append(
            "these are not the classes of the checkpoint: its temperature is used, its threshold and "
            "conformal sets are not"
        )
    return remarks


def _ece_parts(probabilities: NDArray[np.float64], scores: Scores) -> NDArray[np.float64]:
    """Return (V, 16) summands: correct minus confidence in the video's bin, and 1 for the number."""
    confidence = probabilities.max(axis=1)
    parts = np.zeros((len(confidence), NUM_BINS + 1))
    parts[np.arange(len(confidence)), bin_of(confidence)] = scores.right - confidence
    parts[:, -1] = 1
    return parts


def _ece(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    error: NDArray[np.float64] = np.abs(sums[..., :NUM_BINS]).sum(axis=-1) / sums[..., NUM_BINS]
    return error


def _ece_change(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return _ece(sums[..., NUM_BINS + 1 :]) - _ece(sums[..., : NUM_BINS + 1])


def _mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = sums[..., 0] / sums[..., 1]
    return mean


def _with_ones(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([values, np.ones(len(values))], axis=1)


def _rejection(
    calibration: Calibration,
    probabilities: NDArray[np.float64],
    scores: Scores,
    groups: NDArray[np.int64] | None,
) -> dict[str, Any] | None:
    if calibration.unknown_below is None:
        return None
    accepted = ~calibration.is_unknown(probabilities)
    wrong = ~scores.right[accepted]
    of_accepted = None if groups is None else groups[accepted]
    facts = calibration.validation
    return {
        "unknown_below": calibration.unknown_below,
        "max_risk": facts.max_risk if facts else None,
        "accepted": int(accepted.sum()),
        "coverage": float(accepted.mean()),
        "coverage_interval": list(accuracy_interval(accepted, groups)),
        "risk": float(wrong.mean()) if len(wrong) else None,
        "risk_interval": list(accuracy_interval(wrong, of_accepted)) if len(wrong) else None,
    }


def _conformal(
    calibration: Calibration,
    probabilities: NDArray[np.float64],
    scores: Scores,
    groups: NDArray[np.int64] | None,
) -> dict[str, Any] | None:
    sets = calibration.prediction_sets(probabilities)
    if sets is None:
        return None
    covered = sets[np.arange(len(sets)), scores.labels]
    mean_size, interval = sums_interval(_with_ones(sets.sum(axis=1).astype(np.float64)), _mean, groups)
    return {
        "level": calibration.conformal_level,
        "quantile": calibration.conformal_quantile,
        "every_class": calibration.conformal_quantile == 1,
        "classes": sets.shape[1],
        "coverage": float(covered.mean()),
        "coverage_interval": list(accuracy_interval(covered, groups)),
        "mean_size": mean_size,
        "mean_size_interval": _cut(interval, 1, sets.shape[1]),
    }


def _bins(name: str, probabilities: NDArray[np.float64], scores: Scores) -> list[list[Any]]:
    confidence = probabilities.max(axis=1)
    bins = bin_of(confidence)
    return [
        [
            name,
            number / NUM_BINS,
            (number + 1) / NUM_BINS,
            int((bins == number).sum()),
            float(confidence[bins == number].mean()),
            float(scores.right[bins == number].mean()),
        ]
        for number in np.unique(bins).tolist()
    ]


def _cut(interval: Interval | None, low: float, high: float) -> list[float] | None:
    return interval and [min(high, max(low, bound)) for bound in interval]


def _with_interval(value: float, interval: list[float] | None) -> str:
    return with_interval(value, *(interval or (float("nan"),) * 2))
