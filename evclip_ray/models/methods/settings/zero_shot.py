"""Settings of zero-shot CLIP, and its conformance cases. The network is in `methods/zero_shot.py`."""

from typing import ClassVar, Literal

from evclip_ray.models.methods.config import Cacheable, MethodCase, MethodConfig
from evclip_ray.models.setting_types import Normalization, Template


class ZeroShotConfig(MethodConfig):
    """Settings of zero-shot CLIP.

    Attributes:
        template: English sentence with one gap {} for the class name. It changes every class text.
        normalization: "own" normalises pixels by CLIP's statistics, "imagenet" by those of EV-CLIP's release.
    """

    MODULE: ClassVar[str] = "evclip_ray.models.methods.zero_shot"
    name: Literal["zero_shot"] = "zero_shot"
    template: Template = "A video of {}."
    normalization: Normalization = "own"

    @property
    def trains(self) -> bool:
        """False: there is nothing to train."""
        return False

    @property
    def caches(self) -> frozenset[Cacheable]:
        """Class texts and frame features: the method changes neither the pixels nor CLIP."""
        return frozenset({"class_text", "frame_features"})


METHOD_CASES = (MethodCase(num_trainable=0),)
