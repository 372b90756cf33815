"""What TensorBoard reads of a run: scalars by epoch, pictures now and then, HParams from the run's start.

Pictures are drawn after epochs 1, 2, 4, 8, ... and the last one, so that a long run writes few of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from evclip_ray.metrics.classification import ClassificationState
from evclip_ray.metrics.scoring import Scores
from evclip_ray.training.tensorboard.hparams import session_end, session_start
from evclip_ray.training.tensorboard.images import Pixels, confusion_picture, jpeg

LAYOUT = {
    "Is it learning?": {
        "top-1": ["Multiline", ["val/top1", "val/best_top1", "val/zero_shot_top1"]],
        "loss": ["Multiline", ["train/loss", "val/loss"]],
        "steps": ["Multiline", ["run/grad_norm"]],
    },
    "Where does the mask look?": {
        "coverage and entropy": ["Multiline", ["mask/coverage", "mask/entropy"]],
        "change since the last epoch": ["Multiline", ["mask/drift"]],
    },
}
MOST_CURVES = 20
_NO_SCALARS = {"epoch", "val_videos", "leaking_rows"}


class BoardWriter:
    """Writes one run's events into `folder`; a resumed run appends a file of its own."""

    def __init__(self, folder: Path, hparams: Mapping[str, Any], *, text: Mapping[str, str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), flush_secs=5)
        self._events = self._writer._get_file_writer()
        if hparams:
            self._events.add_summary(session_start(hparams))
        self._writer.add_custom_scalars(LAYOUT)
        for title, body in text.items():
            self._writer.add_text(title, body)
        self._writer.flush()

    def scalars(self, values: Mapping[str, float], *, epoch: int) -> None:
        """Write named values at the end of `epoch` (from 1)."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def validated(
        self,
        state: ClassificationState,
        scores: Scores,
        classes: Sequence[str],
        masks: Mapping[str, Pixels],
        *,
        epoch: int,
        last: int,
    ) -> None:
        """Draw the confusion matrix and the strip of each video in `masks`, in the epochs that are drawn.

        After the `last` epoch also precision against recall: of all answers together, and of each of the
        first classes. `state` is over all workers; `scores`, and so the curves, are this worker's share.
        """
        if not _draws(epoch, last):
            return
        self._picture("val/confusion, true by predicted", confusion_picture(state.confusion, classes), epoch)
        for name, picture in masks.items():
            self._picture(f"mask/{name}", picture, epoch)
        if epoch == last and len(scores.labels):
            self._curves(scores, classes, epoch)

    def _curves(self, scores: Scores, classes: Sequence[str], epoch: int) -> None:
        odds = np.exp(scores.logits - scores.logits.max(1, keepdims=True))
        probabilities = odds / odds.sum(1, keepdims=True)
        truth = np.eye(len(classes), dtype=bool)[scores.labels]
        self._writer.add_pr_curve("pr/all classes", truth.ravel(), probabilities.ravel(), epoch)
        for place, name in enumerate(classes[:MOST_CURVES]):
            self._writer.add_pr_curve(f"pr/{name}", truth[:, place], probabilities[:, place], epoch)

    def _picture(self, name: str, picture: Pixels, epoch: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width = picture.shape[:2]
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=jpeg(picture))
        self._events.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), epoch)

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Write the metrics of an epoch."""
        self.scalars(_board_names(metrics), epoch=metrics["epoch"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Tune ends a trial that it stops, and one that has finished, by a SystemExit: no failure.
        failed = kind is not None and issubclass(kind, Exception)
        self._events.add_summary(session_end(succeeded=not failed))
        self._writer.close()


def _draws(epoch: int, last: int) -> bool:
    """Whether pictures are drawn after `epoch` (from 1): the powers of two, and the last."""
    return epoch == last or epoch & (epoch - 1) == 0


def _board_names(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        _tag(key): float(value)
        for key, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in _NO_SCALARS
    }


def _tag(key: str) -> str:
    """`val_top1` -> `val/top1`, `best_val_top1` -> `val/best_top1`, `lr` -> `run/lr`."""
    if key == "zero_shot_top1":
        return "val/zero_shot_top1"
    if key.startswith("best_val_"):
        return f"val/best_{key.removeprefix('best_val_')}"
    group, _, rest = key.partition("_")
    return f"{group}/{rest}" if group in {"train", "val", "mask"} and rest else f"run/{key}"
