"""Typed results of recognition: classes with probabilities, windows of a video, and failed videos."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """A class name and its probability, in [0, 1]."""

    name: str
    probability: float


@dataclasses.dataclass(frozen=True, eq=False)
class WindowPrediction:
    """Prediction for one window of a video.

    Attributes:
        start_seconds: Start of the window; 0 is the first frame of the video.
        end_seconds: End of the window, exclusive.
        scores: The most probable classes, best first.
        logits: (N,) float32, before calibration, in the order of `Recognizer.classes`.
        is_unknown: Whether the best probability is below the rejection threshold.
        prediction_set: Conformal set: the classes that hold the true one at the calibrated level. None
            without conformal calibration.
        mask: (S, S) float32 in [0, 1], the mask prompt on the centre crop of the view; None if it was not
            requested or the method has no mask.
    """

    start_seconds: float
    end_seconds: float
    scores: tuple[ClassScore, ...]
    logits: npt.NDArray[np.float32]
    is_unknown: bool = False
    prediction_set: tuple[str, ...] | None = None
    mask: npt.NDArray[np.float32] | None = None

    @property
    def best(self) -> ClassScore:
        """The most probable class."""
        return self.scores[0]

    def record(self) -> dict[str, Any]:
        """Return the window as JSON values, without logits and mask."""
        record: dict[str, Any] = {
            "start_seconds": round(self.start_seconds, 3),
            "end_seconds": round(self.end_seconds, 3),
            "scores": [
                {"class": score.name, "probability": round(score.probability, 6)} for score in self.scores
            ],
            "unknown": self.is_unknown,
        }
        if self.prediction_set is not None:
            record["prediction_set"] = list(self.prediction_set)
        return record


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """Prediction for one video.

    Attributes:
        video: Path or URI.
        duration_seconds: End of the last frame of the video, or of its part if one was requested.
        num_frames: Frames of the video or of its part.
        windows: Predictions for the windows in order of time; one, the training view, by default.
        overall: The prediction for the whole video. With several windows, probabilities are their mean, and
            there is no mask.
    """

    video: str
    duration_seconds: float
    num_frames: int
    windows: tuple[WindowPrediction, ...]
    overall: WindowPrediction

    @property
    def scores(self) -> tuple[ClassScore, ...]:
        """The most probable classes of the whole video, best first."""
        return self.overall.scores

    @property
    def best(self) -> ClassScore:
        """The most probable class of the whole video."""
        return self.overall.best

    def record(self) -> dict[str, Any]:
        """Return the prediction as JSON values: one line of `evclip-ray predict --json`."""
        overall = self.overall.record()
        return {
            "video": self.video,
            "duration_seconds": round(self.duration_seconds, 3),
            "frames": self.num_frames,
            **{name: value for name, value in overall.items() if not name.endswith("_seconds")},
            "windows": [window.record() for window in self.windows],
        }


@dataclasses.dataclass(frozen=True)
class FailedVideo:
    """A video that could not be recognised, and the reason."""

    video: str
    error: str

    def record(self) -> dict[str, Any]:
        """Return the failure as JSON values."""
        return {"video": self.video, "error": self.error}
