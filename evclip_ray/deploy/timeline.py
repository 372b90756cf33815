"""Timeline of a video: overlapping windows as a sequence of segments with one class each.

The borders of all windows cut the video into pieces. The probabilities of a piece are

    p(piece) = (1 / n) sum_w p(w)

where w are the n windows that cover the piece and p(w) are the calibrated probabilities of w. The class of
the piece is the largest of p(piece). Neighbouring pieces of one class are merged to a segment, whose
probability is the mean of its pieces, weighted by their durations. Parts that no window covers, as with a
stride above the window, are in no segment.

    windows    [0, 2) kick   [1, 3) kick   [2, 4) push
    pieces     [0, 1) [1, 2) kick    [2, 3) kick or push by the mean of two windows    [3, 4) push
"""

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evclip_ray.deploy.predictions import WindowPrediction
from evclip_ray.metrics.calibration import Calibration, softmax

# Starts and ends are sums of floats. Borders that differ by less than a microsecond are the same.
_DECIMALS = 6


@dataclasses.dataclass(frozen=True)
class Segment:
    """Part of a video with one class.

    Attributes:
        start_seconds: Start of the segment.
        end_seconds: End of the segment, exclusive.
        name: The class; None if the segment is below the rejection threshold.
        probability: Probability of the class; of the best class in each piece if the segment is unknown.
    """

    start_seconds: float
    end_seconds: float
    name: str | None
    probability: float

    @property
    def is_unknown(self) -> bool:
        """Whether the best probability is below the rejection threshold."""
        return self.name is None

    def record(self) -> dict[str, Any]:
        """Return the segment as JSON values."""
        return {
            "start_seconds": round(self.start_seconds, 3),
            "end_seconds": round(self.end_seconds, 3),
            "class": self.name,
            "probability": round(self.probability, 6),
        }


def timeline(
    windows: Sequence[WindowPrediction], classes: Sequence[str], calibration: Calibration | None = None
) -> tuple[Segment, ...]:
    """Merge the windows of one video to segments.

    Args:
        windows: The windows, in order of their starts and of their ends.
        classes: The N class names, in the order of the logits.
        calibration: Temperature and rejection threshold.
    """
    segments: list[Segment] = []
    for piece in _pieces(windows, classes, calibration):
        last = segments[-1] if segments else None
        if last is not None and (last.end_seconds, last.name) == (piece.start_seconds, piece.name):
            segments[-1] = _merged(last, piece)
        else:
            segments.append(piece)
    return tuple(segments)


def segment_at(segments: Sequence[Segment], seconds: float) -> Segment | None:
    """Return the segment that covers a time, None in a gap. The last segment includes its end."""
    index = bisect.bisect_right(segments, seconds, key=lambda segment: segment.start_seconds) - 1
    if index < 0:
        return None
    segment = segments[index]
    is_last = index == len(segments) - 1
    return segment if seconds < segment.end_seconds or (is_last and seconds == segment.end_seconds) else None


def _pieces(
    windows: Sequence[WindowPrediction], classes: Sequence[str], calibration: Calibration | None
) -> Iterator[Segment]:
    starts = np.round([window.start_seconds for window in windows], _DECIMALS)
    ends = np.round([window.end_seconds for window in windows], _DECIMALS)
    borders = np.unique(np.concatenate([starts, ends]))
    for start, end in itertools.pairwise(borders.tolist()):
        # The windows are ordered by start and by end, so those that cover a piece are neighbours.
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(starts, start, side="right"))
        if first >= last:
            continue
        mean = _probabilities(windows[first:last], calibration).mean(axis=0)
        unknown = calibration is not None and bool(calibration.is_unknown(mean[None])[0])
        best = int(mean.argmax())
        yield Segment(start, end, None if unknown else classes[best], float(mean[best]))


def _probabilities(
    windows: Sequence[WindowPrediction], calibration: Calibration | None
) -> NDArray[np.float64]:
    logits = np.stack([window.logits for window in windows])
    return softmax(logits) if calibration is None else calibration.probabilities(logits)


def _merged(one: Segment, other: Segment) -> Segment:
    durations = (one.end_seconds - one.start_seconds, other.end_seconds - other.start_seconds)
    total = one.probability * durations[0] + other.probability * durations[1]
    return dataclasses.replace(one, end_seconds=other.end_seconds, probability=total / sum(durations))
