"""Trained method of a checkpoint on a device: loading, other class names, and the forward pass."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from evclip_ray.artifacts import ArtifactError
from evclip_ray.data.transforms import crop_batch, to_device
from evclip_ray.deploy.loading import recorded_experiment
from evclip_ray.evaluation.evaluate import load_trained
from evclip_ray.evaluation.plan import composed_classes
from evclip_ray.formatting import counted
from evclip_ray.metrics.calibration import Calibration
from evclip_ray.metrics.scoring import autocast
from evclip_ray.models.batch import VideoBatch
from evclip_ray.models.methods.base import Method
from evclip_ray.training.build import autocast_dtype, build_method, class_tensors
from evclip_ray.training.checkpoint import read_record
from evclip_ray.training.experiment import ExperimentConfig


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """Trained method of a checkpoint on a device. Several threads may use it at a time.

    Attributes:
        checkpoint: Folder of the checkpoint.
        experiment: Settings of the training, with overrides.
        classes: Class names in the order of the logits.
        method: The method, in evaluation mode.
        device: Device of the method.
        calibration: Calibration of the probabilities; None without one.
    """

    checkpoint: Path
    experiment: ExperimentConfig
    classes: tuple[str, ...]
    method: Method
    device: torch.device
    calibration: Calibration | None

    def __post_init__(self) -> None:
        # Once: switching the mode in `forward` would race with other threads.
        self.method.eval()

    @classmethod
    def load(
        cls, checkpoint: Path, *, device: torch.device, overrides: Mapping[str, Any], use_calibration: bool
    ) -> Self:
        """Load a checkpoint.

        Args:
            checkpoint: Folder of the checkpoint.
            device: Device of the method.
            overrides: Settings by dotted path.
            use_calibration: Whether to use the calibration that is stored with the checkpoint.

        Raises:
            ArtifactError: The folder is not a checkpoint or was written by another version, or its frozen
                weights differ from those of the training.
            ConfigError: A setting is invalid, or frozen weights are missing.
        """
        record = read_record(checkpoint)
        recorded = recorded_experiment(checkpoint, record)
        experiment = ExperimentConfig.load(record["experiment"], overrides)
        classes = composed_classes(record["classes"])
        method = load_trained(checkpoint, experiment, classes, device=device)
        calibration = Calibration.read(checkpoint) if use_calibration else None
        if calibration is not None and experiment.view != recorded.view:
            # Threshold and sets hold for the views that they were fitted on.
            calibration = calibration.for_classes(())
        return cls(checkpoint, experiment, classes, method, device, calibration)

    def with_classes(self, names: tuple[str, ...]) -> Self:
        """Return the model with the same trained tensors and other class names.

        Args:
            names: Class names, at least one.

        Raises:
            ConfigError: Two names read the same.
            ArtifactError: A trained tensor belongs to the classes of the training.
        """
        if self._class_tensors:
            raise ArtifactError(
                f"{self.checkpoint}: the method {self.experiment.method.name} has trained tensors per class "
                f"({', '.join(self._class_tensors[:3])}) and predicts the "
                f"{counted(len(self.classes), 'class')} of its "
                "training only. Predict without classes, or train a method without such tensors, for example "
                "ev_clip."
            )
        method = build_method(self.experiment, names, device=self.device, frozen=self.method.frozen)
        # Shared, not copied: a fine-tuned CLIP has 600 MB of them.
        method.load_state_dict(self.method.state_dict(), assign=True)
        calibration = self.calibration.for_classes(names) if self.calibration else None
        return dataclasses.replace(self, classes=names, method=method, calibration=calibration)

    @functools.cached_property
    def _class_tensors(self) -> list[str]:
        return class_tensors(self.method, self.experiment, self.classes)

    def forward(
        self, frames: Sequence[NDArray[np.uint8]], *, masks: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return logits (B, N), and masks (B, S, S) if they are requested and the method has some.

        Args:
            frames: B views (T, H, W, 3) uint8, whose sizes may differ.
            masks: Whether to return the masks.

        Raises:
            ValueError: A view has another shape or type.
            ArtifactError: A logit is NaN or infinite.
        """
        num_frames = self.experiment.view.num_frames
        for view in frames:
            if view.ndim != 4 or view.dtype != np.uint8 or len(view) != num_frames:
                raise ValueError(
                    f"a view must be ({num_frames}, H, W, 3) uint8, got {view.shape} {view.dtype}"
                )
        # One array where sizes are equal, so that the crop is one operation.
        batch = np.stack(frames) if len({view.shape for view in frames}) == 1 else frames
        # Not `inference_mode`: some methods keep encoded class texts between calls, and inference tensors
        # could not be used outside of it.
        with torch.no_grad():
            pixels = crop_batch(to_device(batch, self.device), size=self.method.frozen.clip.image_size)
            with autocast(self.device, autocast_dtype(self.experiment, self.device)):
                output = self.method(VideoBatch(pixels))
        logits: NDArray[np.float32] = output.logits.float().cpu().numpy()
        if not np.isfinite(logits).all():
            raise ArtifactError(
                f"{self.checkpoint}: gives logits that are NaN or infinite; train it again with a lower "
                "optim.lr, or predict with --set precision=float32"
            )
        if not masks or output.mask is None:
            return logits, None
        return logits, output.mask.float().cpu().numpy()
