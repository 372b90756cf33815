"""Settings of the nearest class mean, and its conformance cases. The network is in `methods/prototype.py`."""

from typing import ClassVar, Literal

from evclip_ray.models.methods.config import Cacheable, MethodCase, MethodConfig
from evclip_ray.models.setting_types import Normalization, Template


class PrototypeConfig(MethodConfig):
    """Settings of the nearest class mean.

    Attributes:
        template: Sentence with one gap {} for the class name; each prototype starts at its text feature.
        normalization: "own" or "imagenet" statistics for the pixels.
    """

    MODULE: ClassVar[str] = "evclip_ray.models.methods.prototype"
    name: Literal["prototype"] = "prototype"
    template: Template = "A video of {}."
    normalization: Normalization = "own"

    @property
    def caches(self) -> frozenset[Cacheable]:
        """Class texts and frame features: the method changes neither the pixels nor CLIP."""
        return frozenset({"class_text", "frame_features"})


METHOD_CASES = (MethodCase(num_trainable=256),)
