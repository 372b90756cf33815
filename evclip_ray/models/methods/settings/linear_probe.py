"""Settings of the linear probe, and its conformance cases. The network is in `methods/linear_probe.py`."""

from typing import ClassVar, Literal

from evclip_ray.models.methods.config import Cacheable, MethodCase, MethodConfig
from evclip_ray.models.setting_types import Normalization


class LinearProbeConfig(MethodConfig):
    """Settings of the linear probe. It reads no class text, so it cannot recognise a class without videos.

    Attributes:
        normalization: "own" or "imagenet" statistics for the pixels.
    """

    MODULE: ClassVar[str] = "evclip_ray.models.methods.linear_probe"
    name: Literal["linear_probe"] = "linear_probe"
    normalization: Normalization = "own"

    @property
    def caches(self) -> frozenset[Cacheable]:
        """Class texts and frame features: the method changes neither the pixels nor CLIP."""
        return frozenset({"class_text", "frame_features"})


METHOD_CASES = (MethodCase(num_trainable=260),)
