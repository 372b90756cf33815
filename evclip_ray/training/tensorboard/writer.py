"""TensorBoard events of a run: scalars of every epoch, pictures of some epochs, HParams records.

Pictures are drawn after epochs 1, 2, 4, 8, ... and the last one, so that a long run writes few of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from evclip_ray.machine_faults import find_fault
from evclip_ray.metrics.classification import ClassificationState
from evclip_ray.metrics.scoring import Scores
from evclip_ray.records import METRICS, SPEED_SHARES, EpochMetrics
from evclip_ray.training.tensorboard.hparams import session_end, session_start
from evclip_ray.training.tensorboard.images import Pixels, confusion_picture, jpeg


def _multiline(*names: str) -> list[Any]:
    return ["Multiline", [METRICS[name].tag for name in names]]


LAYOUT = {
    "Is it learning?": {
        "top-1": _multiline("val_top1", "best_val_top1", "zero_shot_top1"),
        "loss": _multiline("train_loss", "val_loss"),
        "steps": _multiline("grad_norm"),
    },
    "Where does the mask look?": {
        "coverage and entropy": _multiline("mask_coverage", "mask_entropy"),
        "change since the last epoch": _multiline("mask_drift"),
    },
    "Is the device busy?": {
        "shares": _multiline(*SPEED_SHARES),
        "seconds of a step": _multiline("step_seconds", "wait_seconds"),
    },
}
MAX_CURVES = 20
"""Precision-recall curves are drawn of this many classes at most."""


class BoardWriter:
    """Writer of a run's events. A resumed run adds an event file.

    Args:
        folder: Folder of the run.
        hparams: Value of each setting by path; no HParams record is written if empty.
        text: Texts by title.
    """

    def __init__(self, folder: Path, hparams: Mapping[str, Any], *, text: Mapping[str, str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # torch flushes event files every two minutes by default.
        self._writer = SummaryWriter(str(folder), flush_secs=5)
        # HParams records are written directly: `SummaryWriter.add_hparams` would create a second run in a
        # subfolder.
        self._events = self._writer._get_file_writer()
        if hparams:
            self._events.add_summary(session_start(hparams))
        self._writer.add_custom_scalars(LAYOUT)
        for title, body in text.items():
            self._writer.add_text(title, body)
        self._writer.flush()

    def scalars(self, values: Mapping[str, float], *, epoch: int) -> None:
        """Write values by tag at the end of `epoch` (from 1)."""
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
        """Draw the confusion matrix and the mask strips, in the epochs that have pictures.

        After the last epoch, also draw precision-recall curves of all classes together and of the first
        `MAX_CURVES` classes.

        Args:
            state: Counts over all workers.
            scores: Scores of this worker's videos; the curves are over these.
            classes: Names of the classes.
            masks: Strip of each shown video by name.
            epoch: Number of the epoch, from 1.
            last: Number of the last epoch.
        """
        if not _draws(epoch, last):
            return
        self._add_image(
            "val/confusion, true by predicted", confusion_picture(state.confusion, classes), epoch
        )
        for name, picture in masks.items():
            self._add_image(f"mask/{name}", picture, epoch)
        if epoch == last and len(scores.labels):
            self._curves(scores, classes, epoch)

    def _curves(self, scores: Scores, classes: Sequence[str], epoch: int) -> None:
        # Softmax; subtracting the largest logit of a row avoids overflow and changes nothing else.
        odds = np.exp(scores.logits - scores.logits.max(1, keepdims=True))
        probabilities = odds / odds.sum(1, keepdims=True)
        truth = np.eye(len(classes), dtype=bool)[scores.labels]
        self._writer.add_pr_curve("pr/all classes", truth.ravel(), probabilities.ravel(), epoch)
        for index, name in enumerate(classes[:MAX_CURVES]):
            self._writer.add_pr_curve(f"pr/{name}", truth[:, index], probabilities[:, index], epoch)

    def _add_image(self, name: str, picture: Pixels, epoch: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width = picture.shape[:2]
        # `SummaryWriter.add_image` encodes as PNG; JPEG is several times smaller for frames.
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=jpeg(picture))
        self._events.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), epoch)

    def epoch(self, metrics: EpochMetrics) -> None:
        """Write the metrics of an epoch that have a tag, and the loss terms."""
        tagged = {METRICS[name].tag: value for name, value in metrics.values.items() if name in METRICS}
        tagged |= {f"train/{term}": value for term, value in metrics.loss_terms.items()}
        known = {tag: float(value) for tag, value in tagged.items() if tag and value is not None}
        self.scalars(known, epoch=metrics.epoch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A run that a fault of the machine paused goes on later. TensorBoard shows the first end of a run.
        if error is None or find_fault(error) is None:
            # Tune ends both stopped and finished trials by SystemExit, which is not a failure.
            failed = kind is not None and issubclass(kind, Exception)
            self._events.add_summary(session_end(succeeded=not failed))
        self._writer.close()


def _draws(epoch: int, last: int) -> bool:
    """Return whether pictures are drawn after `epoch` (from 1): powers of two and the last epoch."""
    # A power of two has a single bit set, which subtracting 1 clears.
    return epoch == last or epoch & (epoch - 1) == 0
