"""Classes as text: names in a template, and the logits of videos over them."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F
from pydantic import AfterValidator
from torch import Tensor

from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.frozen import without_autocast

GAP = "{}"


def _with_one_gap(template: str) -> str:
    if template.count(GAP) != 1:
        raise ValueError(f"a template must hold {GAP} once, where the class name goes; got {template!r}")
    return template


Template = Annotated[str, AfterValidator(_with_one_gap)]
"""An English sentence with a gap for the class name, `"A video of {}."`."""


def class_texts(class_names: Sequence[str], template: str) -> list[str]:
    """The template filled in with each name.

    Raises:
        ValueError: names that are equal: their logits would be too, and no label could tell them apart.
    """
    repeated = [name for name, count in Counter(class_names).items() if count > 1]
    if repeated:
        raise ValueError(f"class names must differ; given more than once: {', '.join(map(repr, repeated))}")
    return [template.replace(GAP, name) for name in class_names]


def class_logits(clip: FrozenCLIP, video_features: Tensor, text_features: Tensor) -> Tensor:
    """(B, D) and (N, D), L2-normalised both -> (B, N) float32: CLIP's scale x cosine (+ its bias)."""
    # A hundredfold cosine in bfloat16 would be off by half a logit.
    with without_autocast(video_features.device):
        logits = clip.logit_scale * video_features.float() @ text_features.float().T
    return logits if clip.logit_bias is None else logits + clip.logit_bias


def mean_feature(tokens: Tensor) -> Tensor:
    """(B, L, D) -> (B, D) float32: the mean of the tokens as they are, then L2-normalised."""
    return F.normalize(tokens.float().mean(1), dim=-1)
