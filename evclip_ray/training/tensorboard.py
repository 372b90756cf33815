"""What TensorBoard reads of a run: scalars by epoch, and HParams from the run's start.

The HParams records go to the run's own folder when it begins, so that the comparison fills in
while a study runs; `add_hparams` would write a folder of its own, at the end.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SHOWN_METRICS = ("val/top1", "val/top5", "val/loss", "val/best_top1", "train/loss")


class BoardWriter:
    """Writes one run's events into `folder`; a resumed run appends a file of its own."""

    def __init__(self, folder: Path, hparams: Mapping[str, Any], *, text: Mapping[str, str]) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams as hparams_summary

        self._writer = SummaryWriter(str(folder), flush_secs=5)
        self._events = self._writer._get_file_writer()
        values = {
            name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in hparams.items()
        }
        experiment, start, self._end = hparams_summary(values, dict.fromkeys(SHOWN_METRICS, 0.0))
        self._events.add_summary(experiment)
        self._events.add_summary(start)
        for title, body in text.items():
            self._writer.add_text(title, body)
        self._writer.flush()

    def scalars(self, values: Mapping[str, float], *, epoch: int) -> None:
        """Write named values at the end of `epoch` (from 1)."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.add_summary(self._end)
        self._writer.close()
