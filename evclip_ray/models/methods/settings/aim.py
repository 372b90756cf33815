"""Settings of AIM, and its conformance cases. The network is in `methods/aim.py`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from evclip_ray.models.methods.config import Cacheable, MethodCase, MethodConfig
from evclip_ray.models.setting_types import Head, Normalization, Template


class AIMConfig(MethodConfig):
    """Settings of AIM.

    Attributes:
        temporal_adapters: 1, or 2 as published on Something-Something (with `scale` 1).
        adapter_ratio: Width of an adapter as a fraction of W; parameters grow linearly with it.
        scale: Weight of the adapter parallel to the MLP.
        head: "text" starts at zero-shot CLIP and keeps its classes; "linear" starts at random, as published.
        dropout: Rate before the linear head; the text head ignores it.
        template: Sentence with one gap {} for the class name; read by the text head.
        normalization: "own" or "imagenet" statistics for the pixels.
    """

    MODULE: ClassVar[str] = "evclip_ray.models.methods.aim"
    name: Literal["aim"] = "aim"
    temporal_adapters: Literal[1, 2] = 1
    adapter_ratio: Annotated[float, Field(gt=0, le=4)] = 0.25
    scale: Annotated[float, Field(gt=0)] = 0.5
    head: Head = "text"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    template: Template = "A video of {}."
    normalization: Normalization = "own"

    @property
    def caches(self) -> frozenset[Cacheable]:
        """Class texts. The trained parts are inside the image tower, so frame features change."""
        return frozenset({"class_text"})


# Two adapters that start at zero follow each other, so the first one moves in the third step.
METHOD_CASES = (
    MethodCase(num_trainable=13408, needs_vit=True),
    MethodCase(
        num_trainable=17924,
        label="two, linear",
        settings={"temporal_adapters": 2, "head": "linear", "dropout": 0.0},
        needs_vit=True,
        steps_to_move=3,
    ),
    MethodCase(
        num_trainable=17924,
        label="dropout",
        settings={"temporal_adapters": 2, "head": "linear"},
        needs_vit=True,
        is_random=True,
        steps_to_move=3,
    ),
)
