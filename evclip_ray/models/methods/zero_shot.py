"""Zero-shot CLIP (Radford et al. 2021, arXiv 2103.00020), applied to the mean of the frame features.

    logits_c = exp(s) L2(mean_t r_t) . L2(text_c)

where
    r_t      frame feature of frame t, (D,), un-normalised
    text_c   text feature of the template filled with the name of class c
    exp(s)   logit scale of CLIP, 100 in trained models

Nothing is trained. Pooling before normalisation follows ViFi-CLIP; CLIP itself reads single images.
"""

from collections.abc import Sequence

from torch import Tensor

from evclip_ray.models.batch import Frozen, MethodOutput, VideoBatch
from evclip_ray.models.layers.class_text import (
    TextClassifier,
    class_logits,
    class_texts,
    mean_feature,
)
from evclip_ray.models.layers.frames import read_frames
from evclip_ray.models.methods.base import Method
from evclip_ray.models.methods.settings.zero_shot import ZeroShotConfig
from evclip_ray.models.setting_types import Normalization


class ZeroShot(Method):
    """Zero-shot CLIP.

    Args:
        frozen: Frozen networks.
        text_features: (N, D), L2-normalised.
        normalization: As in the config.
    """

    def __init__(
        self, frozen: Frozen, *, text_features: Tensor, normalization: Normalization = "own"
    ) -> None:
        super().__init__(frozen)
        # A constant, not a parameter: the optimiser and the checkpoint must not contain it.
        self.register_buffer("text_features", text_features, persistent=False)
        self.text_features: Tensor
        self.normalization = normalization

    def forward(self, batch: VideoBatch) -> MethodOutput:
        """Return the logits of B videos. Cached frame features are used if the batch has them."""
        frames = read_frames(self.frozen.clip, batch, self.normalization)
        video_features = mean_feature(frames)
        return MethodOutput(
            logits=class_logits(self.frozen.clip, video_features, self.text_features),
            frame_features=frames,
            video_features=video_features,
        )

    def losses(self, output: MethodOutput, labels: Tensor) -> dict[str, Tensor]:
        """Return no terms: there is nothing to train."""
        return {}

    def text_classifier(self) -> TextClassifier | None:
        """Return the encoded class names."""
        return TextClassifier.of(self.frozen.clip, self.text_features)


def build(
    config: ZeroShotConfig, frozen: Frozen, *, class_names: Sequence[str], num_frames: int, image_size: int
) -> ZeroShot:
    """Return the module. The class names are encoded here, once."""
    text_features = frozen.clip.encode_text(class_texts(class_names, config.template))
    return ZeroShot(frozen, text_features=text_features, normalization=config.normalization)
