"""Class texts: names in a template, and the logits of videos over them."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Self

import torch.nn.functional as F
from torch import Tensor

from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.frozen import without_autocast
from evclip_ray.models.setting_types import GAP

# Methods of other packages import it from here.
from evclip_ray.models.setting_types import Template as Template


def class_texts(class_names: Sequence[str], template: str) -> list[str]:
    """Return the template filled with each class name.

    Raises:
        ValueError: Two names are equal. Their logits would be equal too, so they cannot be distinguished.
    """
    repeated = [name for name, count in Counter(class_names).items() if count > 1]
    if repeated:
        raise ValueError(f"class names must differ; given more than once: {', '.join(map(repr, repeated))}")
    return [template.replace(GAP, name) for name in class_names]


@dataclasses.dataclass(frozen=True)
class TextClassifier:
    """Class texts as a classifier of video features: logits = scale v . features + bias, `scaled_cosines`.

    Attributes:
        features: (N, D), L2-normalised.
        scale: Logit scale, not its logarithm.
        bias: Logit bias; None for none.
    """

    features: Tensor
    scale: float
    bias: float | None

    @classmethod
    def of(cls, clip: FrozenCLIP, features: Tensor) -> Self:
        """Return the classifier with CLIP's scale and bias."""
        return cls(features, clip.logit_scale, clip.logit_bias)


def class_logits(clip: FrozenCLIP, video_features: Tensor, text_features: Tensor) -> Tensor:
    """Return logits (B, N) float32: CLIP's logit scale times the cosine, plus its bias if it has one.

    Args:
        clip: Source of scale and bias.
        video_features: (B, D), L2-normalised.
        text_features: (N, D), L2-normalised.
    """
    return scaled_cosines(video_features, text_features, scale=clip.logit_scale, bias=clip.logit_bias)


def scaled_cosines(
    video_features: Tensor, text_features: Tensor, *, scale: Tensor | float, bias: Tensor | float | None
) -> Tensor:
    """Return logits (B, N): scale times the cosine, plus the bias; float32 under autocast as well.

    Args:
        video_features: (B, D), L2-normalised.
        text_features: (N, D), L2-normalised.
        scale: Logit scale, not its logarithm; a scalar.
        bias: Logit bias, a scalar; None for none.
    """
    # bfloat16 has 8 bits: 100 times a rounded cosine is off by up to half a logit, so that the best classes
    # of many videos tie.
    with without_autocast(video_features.device):
        logits = scale * video_features.float() @ text_features.float().T
        return logits if bias is None else logits + bias


def mean_feature(tokens: Tensor) -> Tensor:
    """Return the L2-normalised mean of un-normalised tokens: (B, L, D) to (B, D) float32."""
    return F.normalize(tokens.float().mean(1), dim=-1)
