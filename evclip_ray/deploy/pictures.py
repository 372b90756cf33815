"""Overlays and the sheet of one command: what is drawn after each prediction."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import cast

from evclip_ray.data import storage
from evclip_ray.data.video.opening import VideoError
from evclip_ray.deploy.overlay import write_overlay
from evclip_ray.deploy.predictions import FailedVideo, Prediction, WindowPrediction
from evclip_ray.deploy.recognizer import Recognizer
from evclip_ray.deploy.sheet import MAX_ROWS, SheetRow, sheet_row, shown_window, write_sheet
from evclip_ray.deploy.timeline import Segment
from evclip_ray.machine_faults import MachineFault, find_fault

OnFailure = Callable[[FailedVideo, str], None]
"""Called with a failed video and the output that could not be drawn."""


@dataclasses.dataclass
class Pictures:
    """Draws overlays and a sheet.

    Masks are computed here a second time, window by window, so that those of a long video are never in memory
    together.

    Attributes:
        recognizer: Recogniser of the predictions.
        overlays: Video -> file of its overlay.
        sheet: File of the sheet; None for none.
        window: Seconds of a window; None for one view of the whole video.
        stride: Seconds between windows; None for a window.
        fps: Frames per second of folders of frames.
        on_failure: Called for each failure.
        num_left_out: Videos that the sheet has no row for.
    """

    recognizer: Recognizer
    overlays: Mapping[str, Path]
    sheet: Path | None
    window: float | None
    stride: float | None
    fps: float | None
    on_failure: OnFailure
    num_left_out: int = 0
    _rows: list[SheetRow] = dataclasses.field(default_factory=list)

    def draw(self, prediction: Prediction, segments: Sequence[Segment]) -> None:
        """Draw the outputs of one video.

        Args:
            prediction: Prediction of the video.
            segments: Timeline of the video.

        Raises:
            OSError: A file cannot be written.
        """
        if prediction.video in self.overlays:
            self._report("overlay", prediction, lambda: self._write_overlay(prediction, segments))
        if self.sheet is None:
            return
        if len(self._rows) == MAX_ROWS:
            self.num_left_out += 1
        else:
            self._report("sheet", prediction, lambda: self._rows.append(self._row(prediction)))

    def write_sheet(self) -> None:
        """Write the sheet, if one is wanted and a video was predicted.

        Raises:
            OSError: The file cannot be written.
        """
        if self.sheet is not None and self._rows:
            write_sheet(self._rows, self.sheet)

    def _report(self, what: str, prediction: Prediction, draw: Callable[[], None]) -> None:
        try:
            draw()
        except VideoError as error:
            # The reader converts every error in its block, also one of writing. A full disk is no fault of
            # this video, and every other would fail too.
            fault = find_fault(error)
            if fault is not None:
                raise MachineFault(fault.describe(self._folder_of(what, prediction))) from None
            self.on_failure(FailedVideo(prediction.video, error.reason), what)

    def _folder_of(self, what: str, prediction: Prediction) -> Path | None:
        return self.overlays[prediction.video].parent if what == "overlay" else None

    def _write_overlay(self, prediction: Prediction, segments: Sequence[Segment]) -> None:
        predicted = self.recognizer.predict_windows(
            storage.place(prediction.video),
            window_seconds=self.window,
            stride_seconds=self.stride,
            fps=self.fps,
            masks=True,
        )
        # Closed at once by an error, so that no decoding thread goes on.
        with contextlib.closing(cast(Generator[WindowPrediction, None, None], predicted)) as windows:
            write_overlay(
                prediction.video,
                self.overlays[prediction.video],
                view=self.recognizer.view,
                segments=segments,
                windows=windows,
                fps=self.fps,
            )

    def _row(self, prediction: Prediction) -> SheetRow:
        bounds: tuple[float | None, float | None] = (None, None)
        if len(prediction.windows) > 1:
            window = shown_window(prediction)
            bounds = (window.start_seconds, window.end_seconds)
        frames = self.recognizer.decode(
            storage.place(prediction.video), start_seconds=bounds[0], end_seconds=bounds[1], fps=self.fps
        )
        (shown,) = self.recognizer.predict_frames([frames], masks=True)
        return sheet_row(prediction, frames, shown.mask)
