"""Linear probe (Radford et al. 2021, section 3.2): a linear classifier on the mean frame feature.

    logits = W mean_t r_t + b

where
    r_t    frame feature of frame t, (D,), un-normalised
    W, b   trained weights (N, D) and biases (N,)

W and b start at zero. The problem is convex, so the start does not bias the result, and the loss starts at
log N for any features. CLIP's authors fit with L-BFGS; here the optimiser is that of all methods.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from evclip_ray.models.batch import Frozen, MethodOutput, VideoBatch
from evclip_ray.models.layers.class_text import class_texts
from evclip_ray.models.layers.frames import read_frames
from evclip_ray.models.layers.heads import linear_logits
from evclip_ray.models.methods.base import Method
from evclip_ray.models.methods.settings.linear_probe import LinearProbeConfig
from evclip_ray.models.setting_types import Normalization


class LinearProbe(Method):
    """Linear probe over `num_classes` classes, with (D + 1) N parameters."""

    def __init__(self, frozen: Frozen, *, num_classes: int, normalization: Normalization = "own") -> None:
        super().__init__(frozen)
        self.classifier = nn.Linear(frozen.clip.embed_dim, num_classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        self.normalization = normalization

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Return the logits of B videos. Cached frame features are used if the batch has them."""
        frames = read_frames(self.frozen.clip, batch, self.normalization)
        pooled = frames.float().mean(1)
        return MethodOutput(
            logits=linear_logits(self.classifier, pooled),
            frame_features=frames,
            video_features=F.normalize(pooled, dim=-1),
        )

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """Return `cross_entropy` over all classes."""
        return {"cross_entropy": F.cross_entropy(output.logits.float(), labels)}


def build(
    config: LinearProbeConfig, frozen: Frozen, *, class_names: Sequence[str], num_frames: int, image_size: int
) -> LinearProbe:
    """Return the module. Only the number of class names is used."""
    num_classes = len(class_texts(class_names, "{}"))
    return LinearProbe(frozen, num_classes=num_classes, normalization=config.normalization)
