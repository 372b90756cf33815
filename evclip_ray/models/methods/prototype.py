"""Nearest class mean: a class is the mean of its videos' features, and a video belongs to the nearest.

    v      = L2(mean_t r_t)
    loss   = mean over videos of |v - p_y|^2               least where p_c is the mean of its videos
    logits = exp(s) v . L2(p)

The means are what ordinary training converges to, so that the method needs no pass of its own, and
videos may come in any order, on any number of workers. A prototype starts as its class's text, and
stays there for a class without videos (but for weight decay, which cosines do not see).
"""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from evclip_ray.models.layers.class_text import Template, class_logits, class_texts, mean_feature
from evclip_ray.models.layers.frames import Normalization, read_frames
from evclip_ray.models.methods.base import Cacheable, Frozen, Method, MethodConfig, MethodOutput, VideoBatch


class PrototypeConfig(MethodConfig):
    """Nearest class mean; `template`: the text that each prototype starts from."""

    name: Literal["prototype"] = "prototype"
    template: Template = "A video of {}."
    normalization: Normalization = "own"

    @property
    def caches(self) -> frozenset[Cacheable]:
        """All of it: the pixels are not changed."""
        return Prototype.caches

    def build(
        self,
        frozen: Frozen,
        *,
        class_names: Sequence[str],
        num_frames: int,
        image_size: int,
    ) -> "Prototype":
        """The module; the class names are encoded here, once."""
        text_features = frozen.clip.encode_text(class_texts(class_names, self.template))
        return Prototype(frozen, start=text_features, normalization=self.normalization)


class Prototype(Method):
    """Nearest class mean. `start`: (N, D), where the prototypes begin."""

    caches = frozenset({"class_text", "frame_features"})

    def __init__(self, frozen: Frozen, *, start: Tensor, normalization: Normalization = "own") -> None:
        super().__init__(frozen)
        self.prototypes = nn.Parameter(start.detach().clone())
        self.normalization = normalization

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Logits of B videos, from cached frame features where the batch has them."""
        frames = read_frames(self.frozen.clip, batch, self.normalization)
        video_features = mean_feature(frames)
        prototypes = F.normalize(self.prototypes.float(), dim=-1)
        return MethodOutput(
            logits=class_logits(self.frozen.clip, video_features, prototypes),
            frame_features=frames,
            video_features=video_features,
        )

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """`distance`: squared, from each video to its class's prototype."""
        assert output.video_features is not None
        return {"distance": (output.video_features - self.prototypes[labels]).square().sum(1).mean()}
