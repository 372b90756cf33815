"""Calibration of a checkpoint: temperature, rejection threshold and conformal sets, stored with it.

    p = softmax(z / T)

where z are the logits of a video and T is the temperature, which minimises the log loss on validation videos.
Source: Guo et al., ICML 2017, section 4.2. The temperature does not change which class is best.

A checkpoint's folder holds its calibration as `calibration.json`, which `evaluate --calibrate` writes.
"""

import unicodedata
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from evclip_ray.artifacts import ArtifactError, read_json, write_json
from evclip_ray.config import Config, explain
from evclip_ray.formatting import counted
from evclip_ray.metrics.conformal import conformal_sets

FILE = "calibration.json"
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
_CALIBRATE_AGAIN = "Fit it again with evclip-ray evaluate CHECKPOINT --calibrate, or remove the file."


class ValidationFacts(Config):
    """Validation videos that a calibration was fitted on, and how well it fits them.

    Attributes:
        num_videos: Number of videos.
        num_groups: Number of their groups; None if every video is a group of its own.
        videos: Digest of the paths and labels, the same as in `validation.npz`; None if it is not known.
        top1: Fraction of the videos whose best class is the true one.
        calibration_error: Expected calibration error before and after.
        log_loss: Mean log loss before and after, in nats.
        max_risk: Largest tolerated error that the rejection threshold was chosen for; None if it was given.
        accepted: Fraction of the videos that the threshold accepts; None without a threshold.
        accepted_risk: Error among the accepted videos; None without any.
        written: Time of the fit, UTC.
        version: Version of evclip-ray.
        conditions: Precision, device and activation of the forward passes.
        warnings: Reasons to doubt the calibration.
    """

    num_videos: int
    num_groups: int | None = None
    videos: str | None = None
    top1: float
    calibration_error: tuple[float, float]
    log_loss: tuple[float, float]
    max_risk: float | None = None
    accepted: float | None = None
    accepted_risk: float | None = None
    written: str = ""
    version: str = ""
    conditions: dict[str, str] = {}
    warnings: tuple[str, ...] = ()


class Calibration(Config):
    """Calibration of a checkpoint.

    Attributes:
        temperature: Divisor of the logits.
        classes: Class names of the checkpoint, in index order.
        unknown_below: A video is unknown if its best probability is below this; None for no rejection.
        conformal_level: Share of videos whose set of classes holds the true one; None without sets.
        conformal_quantile: Largest 1 - p of a class in the set; None without sets.
        adapter: Size and CRC-32 of the trained tensors; None for a checkpoint without checksums.
        validation: Facts about the fit; None for a calibration that was not fitted by `evaluate`.
    """

    temperature: float = Field(gt=0)
    classes: tuple[str, ...]
    unknown_below: float | None = Field(None, ge=0, le=1)
    conformal_level: float | None = Field(None, gt=0, lt=1)
    conformal_quantile: float | None = Field(None, ge=0, le=1)
    adapter: tuple[int, int] | None = None
    validation: ValidationFacts | None = None

    @classmethod
    def read(cls, checkpoint: Path) -> Self | None:
        """Read the calibration of a checkpoint. Returns None for a checkpoint without one.

        Raises:
            ArtifactError: The file is damaged, or belongs to another checkpoint.
        """
        path = checkpoint / FILE
        if not path.exists():
            return None
        try:
            calibration = cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "the file"
            raise ArtifactError(
                f"{path}: is not a calibration ({name}: {explain(first)}); the file is damaged. "
                f"{_CALIBRATE_AGAIN}"
            ) from None
        except ArtifactError as error:
            raise ArtifactError(f"{error}. {_CALIBRATE_AGAIN}") from None
        calibration._check_owner(checkpoint)
        return calibration

    def write(self, checkpoint: Path) -> None:
        """Write the calibration into a checkpoint's folder, atomically.

        Raises:
            OSError: The folder cannot be written to.
        """
        write_json(checkpoint / FILE, self.model_dump(mode="json"))

    def probabilities(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return softmax(logits / temperature), (B, N).

        Args:
            logits: (B, N) scores of the classes.
        """
        return softmax(logits, self.temperature)

    def is_unknown(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return (B,) flags: the best probability is below the threshold. All False without a threshold.

        Args:
            probabilities: (B, N) result of `probabilities`, or a mean of such results.
        """
        if self.unknown_below is None:
            return np.zeros(len(probabilities), bool)
        unknown: NDArray[np.bool_] = probabilities.max(axis=1) < self.unknown_below
        return unknown

    def prediction_sets(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_] | None:
        """Return (B, N) flags of the classes in each conformal set; None without conformal calibration.

        Args:
            probabilities: (B, N) result of `probabilities`, or a mean of such results.
        """
        if self.conformal_quantile is None:
            return None
        return conformal_sets(probabilities, self.conformal_quantile)

    def for_classes(self, classes: tuple[str, ...]) -> Self:
        """Return the calibration for predictions among other class names.

        Threshold and conformal sets hold for the probabilities of the checkpoint's own classes, so that other
        names keep the temperature alone.

        Args:
            classes: Class names that are predicted.
        """
        changes: dict[str, Any] = {"classes": tuple(classes)}
        # In any order: neither depends on it.
        if sorted(_composed(classes)) != sorted(_composed(self.classes)):
            changes |= {"unknown_below": None, "conformal_level": None, "conformal_quantile": None}
        return self.model_copy(update=changes)

    def _check_owner(self, checkpoint: Path) -> None:
        config = checkpoint / "config.json"
        classes = _classes_of(config)
        if classes is not None and _composed(classes) != _composed(self.classes):
            raise ArtifactError(
                f"{checkpoint / FILE}: is for {counted(len(self.classes), 'class')} "
                f"({_shown(self.classes)}), but the "
                f"checkpoint has {len(classes)} ({_shown(classes)}). {_CALIBRATE_AGAIN}"
            )
        adapter = adapter_checksum(checkpoint)
        if adapter is not None and self.adapter is not None and adapter != self.adapter:
            raise ArtifactError(
                f"{checkpoint / FILE}: was fitted to another checkpoint, whose trained tensors have size and "
                f"CRC-32 {self.adapter}, got {adapter}. {_CALIBRATE_AGAIN}"
            )


class Fit(NamedTuple):
    """Fitted temperature, and reasons to doubt it."""

    temperature: float
    warnings: tuple[str, ...]


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the softmax of `logits / temperature` along the last axis, in float64."""
    scores = logits.astype(np.float64) / temperature
    # The largest score is subtracted first, so that no exponential overflows.
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer], *, few: int = 10) -> Fit:
    """Return the temperature that minimises the log loss, from 0.01 to 100.

        T = argmin_T  mean_i [ log sum_j exp(z_ij / T) - z_iy / T ]

    where z_ij is the logit of video i for class j, and y is the true class of i.
    Source: Guo et al., ICML 2017, section 4.2. The loss is convex in 1 / T, so that it has one minimum, which
    a bounded search over log T finds.

    We depart from it where the videos do not determine a temperature. If the loss falls towards 0.01, as it
    does if every video is right, the temperature stays 1: no error shows how sharp the probabilities may be.
    If it falls towards 100, the logits of the true classes are not above the others, and the temperature is
    100: the probabilities are nearly equal.

    Args:
        logits: (B, N) finite scores of the classes.
        labels: (B,) indices of the true classes.
        few: Number of videos below which a warning is given.

    Raises:
        ValueError: There are no videos, or a logit is NaN or infinite.
    """
    from scipy.optimize import minimize_scalar

    scores = logits.astype(np.float64)
    num_broken = int((~np.isfinite(scores)).any(axis=1).sum())
    if len(scores) == 0 or num_broken:
        raise ValueError(
            f"a temperature needs videos with finite logits, got {counted(len(scores), 'video')}, of which "
            f"{num_broken} have NaN or infinite logits"
        )
    # Differences to the true class: the loss is log sum_j exp(d_ij / T), in one pass.
    margins = scores - scores[np.arange(len(scores)), labels][:, None]

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp.reduce(margins * np.exp(-log_temperature), axis=1).mean())

    bounds = np.log([MIN_TEMPERATURE, MAX_TEMPERATURE])
    found = float(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)
    temperature, warnings = float(np.exp(found)), []
    # The search never returns a bound itself, only points near it.
    if found - bounds[0] < 1e-3:
        temperature = 1.0
        warnings.append(
            "the validation videos do not determine a temperature, because their log loss falls without end "
            f"({_share_right(scores, labels)}); it stays 1"
        )
    elif bounds[1] - found < 1e-3:
        temperature = MAX_TEMPERATURE
        warnings.append(
            "the logits of the true classes are not above the others on the validation videos "
            f"({_share_right(scores, labels)}); the temperature is its upper bound, {MAX_TEMPERATURE:g}, and "
            "all classes get nearly equal probabilities"
        )
    if len(scores) < few:
        warnings.append(
            f"{counted(len(scores), 'validation video', 'is', 'are')} few; the temperature is uncertain "
            f"below {few}"
        )
    if len(np.unique(labels)) == 1:
        warnings.append("all validation videos have one class; the temperature may not hold for the others")
    return Fit(temperature, tuple(warnings))


def adapter_checksum(checkpoint: Path) -> tuple[int, int] | None:
    """Return size and CRC-32 of a checkpoint's trained tensors, as recorded; None without checksums."""
    # `training.checksums` writes the file. This layer is below it and reads the one entry.
    path = checkpoint / "checksums.json"
    sums = read_json(path) if path.is_file() else None
    # A damaged file is reported where the tensors are read.
    entry = sums.get("adapter.safetensors") if isinstance(sums, dict) else None
    return (int(entry[0]), int(entry[1])) if entry else None


def _classes_of(config: Path) -> tuple[str, ...] | None:
    record: Any = read_json(config) if config.is_file() else None
    return tuple(record["classes"]) if isinstance(record, dict) and "classes" in record else None


def _composed(classes: tuple[str, ...]) -> tuple[str, ...]:
    # Names are compared in Unicode's form NFC, as labels of a manifest are.
    return tuple(unicodedata.normalize("NFC", name) for name in classes)


def _share_right(scores: NDArray[np.float64], labels: NDArray[np.integer]) -> str:
    return f"{int((scores.argmax(axis=1) == labels).sum())} of {len(scores)} are right"


def _shown(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
