"""Heads of methods that work inside the image tower: from class tokens to logits."""

import torch.nn.functional as F
from torch import Tensor, nn

from evclip_ray.models.batch import Frozen, MethodOutput
from evclip_ray.models.frozen import without_autocast
from evclip_ray.models.layers.class_text import class_logits, mean_feature

# Methods of other packages import it from here.
from evclip_ray.models.setting_types import Head as Head


def linear_logits(classifier: nn.Linear, features: Tensor) -> Tensor:
    """Return the logits (B, N) of a linear layer on features (B, D); float32 under autocast as well."""
    # Rounded to the 8 bits of bfloat16, the logits of close classes would be equal.
    with without_autocast(features.device):
        logits: Tensor = classifier(features.to(classifier.weight.dtype))
        return logits


class TextHead(nn.Module):
    """Head exp(s) L2(mean_t r_t) . text_c, where r_t is the projected class token of frame t. Not trained.

    Args:
        frozen: Frozen networks.
        text_features: (N, D), L2-normalised.
    """

    def __init__(self, frozen: Frozen, text_features: Tensor) -> None:
        super().__init__()
        # A dataclass, so the frozen networks are not registered as submodules.
        self.frozen = frozen
        self.register_buffer("text_features", text_features, persistent=False)
        self.text_features: Tensor

    def forward(self, class_tokens: Tensor) -> MethodOutput:
        """Map class tokens after the last layer norm, (B, T, W), to logits (B, N)."""
        projection = self.frozen.clip.model.visual.proj
        frames = class_tokens
        if projection is not None:
            frames = class_tokens.to(projection.dtype) @ projection
        video_features = mean_feature(frames)
        return MethodOutput(
            logits=class_logits(self.frozen.clip, video_features, self.text_features),
            frame_features=frames,
            video_features=video_features,
        )


class LinearHead(nn.Module):
    """Head W dropout(mean_t c_t) + b over the class tokens c_t, with (width + 1) N parameters.

    Args:
        width: Channels of a class token.
        num_classes: N.
        dropout: Rate of dropped channels of the mean.
    """

    def __init__(self, width: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, num_classes)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, class_tokens: Tensor) -> MethodOutput:
        """Map class tokens after the last layer norm, (B, T, W), to logits (B, N)."""
        pooled = class_tokens.float().mean(1)
        return MethodOutput(
            logits=linear_logits(self.classifier, self.dropout(pooled)),
            video_features=F.normalize(pooled, dim=-1),
        )
