"""Settings of CoOp, and its conformance cases. The network is in `methods/coop.py`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from evclip_ray.models.methods.config import Cacheable, MethodCase, MethodConfig
from evclip_ray.models.setting_types import Normalization


class CoOpConfig(MethodConfig):
    """Settings of CoOp.

    Attributes:
        num_vectors: P. Vectors and class name must fit in the text context of 77 tokens.
        class_specific: Learn P vectors per class: N times the parameters, and no logits for new classes.
        normalization: "own" or "imagenet" statistics for the pixels.
    """

    MODULE: ClassVar[str] = "evclip_ray.models.methods.coop"
    name: Literal["coop"] = "coop"
    num_vectors: Annotated[int, Field(ge=1)] = 16
    class_specific: bool = False
    normalization: Normalization = "own"

    @property
    def caches(self) -> frozenset[Cacheable]:
        """Frame features. Class texts change in every step."""
        return frozenset({"frame_features"})


METHOD_CASES = (
    MethodCase(num_trainable=256, settings={"num_vectors": 4}),
    MethodCase(num_trainable=1024, label="by class", settings={"num_vectors": 4, "class_specific": True}),
)
