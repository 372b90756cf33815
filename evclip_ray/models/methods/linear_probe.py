"""Linear probe: a linear classifier on the mean of the frozen frame features.

    logits = W mean_t r_t + b                              r_t un-normalised

W and b start at zero: the problem is convex, and the loss starts at log N whatever the features.
"""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from evclip_ray.models.layers.class_text import class_texts
from evclip_ray.models.layers.frames import Normalization, read_frames
from evclip_ray.models.methods.base import Cacheable, Frozen, Method, MethodConfig, MethodOutput, VideoBatch


class LinearProbeConfig(MethodConfig):
    """Linear probe; it reads no text, so it knows nothing of a class without videos."""

    name: Literal["linear_probe"] = "linear_probe"
    normalization: Normalization = "own"

    @property
    def caches(self) -> frozenset[Cacheable]:
        """All of it: the pixels are not changed."""
        return LinearProbe.caches

    def build(
        self,
        frozen: Frozen,
        *,
        class_names: Sequence[str],
        num_frames: int,
        image_size: int,
    ) -> "LinearProbe":
        """The module; of the class names only their number is used."""
        num_classes = len(class_texts(class_names, "{}"))
        return LinearProbe(frozen, num_classes=num_classes, normalization=self.normalization)


class LinearProbe(Method):
    """Linear probe over `num_classes` classes: (D + 1) N parameters."""

    caches = frozenset({"class_text", "frame_features"})

    def __init__(self, frozen: Frozen, *, num_classes: int, normalization: Normalization = "own") -> None:
        super().__init__(frozen)
        self.classifier = nn.Linear(frozen.clip.embed_dim, num_classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        self.normalization = normalization

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Logits of B videos, from cached frame features where the batch has them."""
        frames = read_frames(self.frozen.clip, batch, self.normalization)
        pooled = frames.float().mean(1)
        return MethodOutput(
            logits=self.classifier(pooled),
            frame_features=frames,
            video_features=F.normalize(pooled, dim=-1),
        )

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """`cross_entropy` over all classes."""
        return {"cross_entropy": F.cross_entropy(output.logits.float(), labels)}
