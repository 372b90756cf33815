"""Zero-shot CLIP: the mean of the frame features against the class texts; nothing is trained.

logits = exp(s) L2(mean_t r_t) . text                  r_t un-normalised
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from evclip_ray.models.layers.class_text import Template, class_logits, class_texts, mean_feature
from evclip_ray.models.layers.frames import Normalization, read_frames
from evclip_ray.models.methods.base import Cacheable, Frozen, Method, MethodConfig, MethodOutput, VideoBatch


class ZeroShotConfig(MethodConfig):
    """Zero-shot CLIP; `normalization`: the colours of its input."""

    name: Literal["zero_shot"] = "zero_shot"
    template: Template = "A video of {}."
    normalization: Normalization = "own"

    @property
    def trains(self) -> bool:
        """There is nothing to train."""
        return False

    @property
    def caches(self) -> frozenset[Cacheable]:
        """All of it: the pixels are not changed."""
        return ZeroShot.caches

    def build(
        self,
        frozen: Frozen,
        *,
        class_names: Sequence[str],
        num_frames: int,
        image_size: int,
    ) -> "ZeroShot":
        """The module; the class names are encoded here, once."""
        text_features = frozen.clip.encode_text(class_texts(class_names, self.template))
        return ZeroShot(frozen, text_features=text_features, normalization=self.normalization)


class ZeroShot(Method):
    """Zero-shot CLIP over the classes of `text_features`, (N, D) L2-normalised."""

    caches = frozenset({"class_text", "frame_features"})

    def __init__(
        self, frozen: Frozen, *, text_features: Tensor, normalization: Normalization = "own"
    ) -> None:
        super().__init__(frozen)
        self.register_buffer("text_features", text_features, persistent=False)
        self.text_features: Tensor
        self.normalization = normalization

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Logits of B videos, from cached frame features where the batch has them."""
        frames = read_frames(self.frozen.clip, batch, self.normalization)
        video_features = mean_feature(frames)
        return MethodOutput(
            logits=class_logits(self.frozen.clip, video_features, self.text_features),
            frame_features=frames,
            video_features=video_features,
        )

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """No terms: there is nothing to train."""
        return {}
