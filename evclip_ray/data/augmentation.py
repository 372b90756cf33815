"""Settings of the augmentation of training views. Settings are read without PyTorch."""

import functools
import re
from typing import Literal, Self

from pydantic import Field, model_validator

from evclip_ray.config import Config

CROP_FRACTION = 7 / 8
"""Side of the crop of the evaluation as a share of the shorter side, such as 224 of 256."""


class AugmentConfig(Config):
    """Augmentation of training views.

    Attributes:
        crop: "random_resized" crops a square whose area is a random share of the largest square's area,
            drawn from `scale`. "random" crops a square of the evaluation's side at a random position (as
            EV-CLIP's released code does: 224 of 256 x 340). "centre" is the crop of the evaluation.
        scale: Smallest and largest share of the area, for "random_resized".
        flip: Probability of a horizontal flip.
        flip_except: Comma-separated words. Videos whose label contains one are never flipped, because the
            mirror image of "pushing something from left to right" is another action.
        brightness: Largest relative change: 0.2 multiplies by a factor drawn from [0.8, 1.2].
        contrast: The same for the contrast.
        low_light: Probability of a darkening x -> x^gamma.
        low_light_gamma: Largest gamma; it is drawn from [1, `low_light_gamma`].
        mixup: alpha of Beta(alpha, alpha), see `mix`; 0 switches mixup off.
    """

    crop: Literal["random_resized", "random", "centre"] = "random_resized"
    scale: tuple[float, float] = (0.5, 1.0)
    flip: float = Field(default=0.5, ge=0, le=1)
    flip_except: str = "left, right"
    brightness: float = Field(default=0.0, ge=0, le=1)
    contrast: float = Field(default=0.0, ge=0, le=1)
    low_light: float = Field(default=0.0, ge=0, le=1)
    low_light_gamma: float = Field(default=3.5, ge=1)
    mixup: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> Self:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high <= 1, got {self.scale}")
        return self

    def may_flip(self, label: str) -> bool:
        """Return whether the mirror image of a video with this label has the same label."""
        return not _contains_word(label, self.flip_except)


# Cached, because the labels of a set repeat in every batch.
@functools.lru_cache(maxsize=1 << 16)
def _contains_word(label: str, words: str) -> bool:
    # An underscore is a word character for \b, so "turn_left" would not match.
    spaced = label.replace("_", " ")
    patterns = [rf"\b{re.escape(word.strip())}\b" for word in words.split(",") if word.strip()]
    return any(re.search(pattern, spaced, re.IGNORECASE) for pattern in patterns)
