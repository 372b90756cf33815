"""From logits to the typed results: probabilities, best classes, rejection and conformal sets."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evclip_ray.config import ConfigError
from evclip_ray.deploy.predictions import ClassScore, Prediction, WindowPrediction
from evclip_ray.metrics.calibration import Calibration, softmax


@dataclasses.dataclass(frozen=True)
class WindowScores:
    """Conversion of logits to predictions.

    Attributes:
        classes: Class names in the order of the logits.
        calibration: Calibration of the probabilities; None for the softmax of the logits.
        top_k: Number of classes in a prediction; all if there are fewer.

    Raises:
        ConfigError: `top_k` is less than 1.
    """

    classes: Sequence[str]
    calibration: Calibration | None = None
    top_k: int = 5

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ConfigError(f"top_k must be at least 1, got {self.top_k}")

    def window(
        self,
        logits: NDArray[np.float32],
        start_seconds: float,
        end_seconds: float,
        *,
        mask: NDArray[np.float32] | None = None,
    ) -> WindowPrediction:
        """Return the prediction for logits (N,) of one view."""
        probabilities = self._probabilities(logits[None])[0]
        return self._prediction(logits, probabilities, start_seconds, end_seconds, mask)

    def video(
        self, video: str, windows: Sequence[WindowPrediction], *, duration_seconds: float, num_frames: int
    ) -> Prediction:
        """Return the prediction for a video from those for its windows.

        With several windows, the probabilities are their mean p. Logits are then T log p, where T is the
        temperature (1 without calibration), so that they give p again. There is no mean of masks.
        """
        overall = windows[0]
        if len(windows) > 1:
            mean = self._probabilities(np.stack([window.logits for window in windows])).mean(axis=0)
            temperature = self.calibration.temperature if self.calibration else 1.0
            # The smallest float keeps the logarithm of a probability of 0 finite.
            logits = (temperature * np.log(np.maximum(mean, np.finfo(mean.dtype).tiny))).astype(np.float32)
            overall = self._prediction(
                logits, mean, windows[0].start_seconds, windows[-1].end_seconds, mask=None
            )
        return Prediction(video, duration_seconds, num_frames, tuple(windows), overall)

    def _probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        return self.calibration.probabilities(logits) if self.calibration else softmax(logits)

    def _prediction(
        self,
        logits: NDArray[np.float32],
        probabilities: NDArray[np.float64],
        start_seconds: float,
        end_seconds: float,
        mask: NDArray[np.float32] | None,
    ) -> WindowPrediction:
        # Stable, so that equal probabilities keep the order of the classes.
        best = np.argsort(-probabilities, kind="stable")[: self.top_k].tolist()
        is_unknown, names = False, None
        if self.calibration is not None:
            is_unknown = bool(self.calibration.is_unknown(probabilities[None])[0])
            sets = self.calibration.prediction_sets(probabilities[None])
            if sets is not None:
                names = tuple(self.classes[index] for index in np.flatnonzero(sets[0]).tolist())
        return WindowPrediction(
            start_seconds,
            end_seconds,
            tuple(ClassScore(self.classes[index], float(probabilities[index])) for index in best),
            logits,
            is_unknown,
            names,
            mask,
        )
