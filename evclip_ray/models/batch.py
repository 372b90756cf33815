"""Inputs and outputs of methods: the frozen networks, a batch of videos, and the result of a forward pass."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from evclip_ray.models.clip import FrozenCLIP
    from evclip_ray.models.video_encoder import FrozenVideoEncoder


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Frozen networks that a method reads.

    A plain dataclass: `nn.Module` does not register its members, so a method that holds it neither trains
    nor saves them.
    """

    clip: "FrozenCLIP"
    video_encoder: "FrozenVideoEncoder | None" = None


@dataclasses.dataclass(frozen=True)
class VideoBatch:
    """One view of each of B videos: pixels, cached features, or both.

    Attributes:
        pixels: (B, T, 3, H, W) float in [0, 1]; None when the cached features are sufficient.
        video_map: (B, D_z, T/2, h, w), the last map of the frozen video encoder, or None. A method that
            declares "video_mean" also accepts its mean, (B, D_z, 1, 1, 1).
        frame_features: (B, T, D), frozen CLIP frame features, un-normalised, or None.
        labels: (B,) int64, during training only. A method that trains its texts may then encode the texts
            of these classes alone. The features of a video must not depend on them.
        classes: The distinct labels in ascending order, for a method without `has_fixed_shapes`; or None.
            Their number is found on the CPU, so that no step waits for a GPU.
    """

    pixels: Tensor | None
    video_map: Tensor | None = None
    frame_features: Tensor | None = None
    labels: Tensor | None = None
    classes: Tensor | None = None

    @property
    def num_videos(self) -> int:
        """Number of videos."""
        fields = (self.pixels, self.video_map, self.frame_features, self.labels)
        return next((len(each) for each in fields if each is not None), 0)


@dataclasses.dataclass(frozen=True)
class MethodOutput:
    """Result of a forward pass. Fields that a method does not compute are None.

    Attributes:
        logits: (B, N) float32, under autocast as well. Classes of rounded logits tie.
        frame_features: (B, T, D), un-normalised.
        video_features: (B, D), L2-normalised.
        mask: (B, H, W) in [0, 1].
        context: (B, P, D).
        extra: Further tensors by name, for the losses or for logging.
    """

    logits: Tensor
    frame_features: Tensor | None = None
    video_features: Tensor | None = None
    mask: Tensor | None = None
    context: Tensor | None = None
    extra: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
