"""Settings of ST-Adapter, and its conformance cases. The network is in `methods/st_adapter.py`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from evclip_ray.models.methods.config import Cacheable, MethodCase, MethodConfig
from evclip_ray.models.setting_types import Head, Normalization, Template

Placement = Literal["mlp", "both"]


class STAdapterConfig(MethodConfig):
    """Settings of ST-Adapter.

    Attributes:
        placement: "mlp" (one adapter per block) or "both" (before attention too: twice the parameters).
        width: Channels of the convolution; parameters grow linearly with it.
        head: "text" starts at zero-shot CLIP and keeps its classes; "linear" starts at random, as published.
        dropout: Rate before the linear head; the text head ignores it.
        template: Sentence with one gap {} for the class name; read by the text head.
        normalization: "own" or "imagenet" statistics for the pixels.
    """

    MODULE: ClassVar[str] = "evclip_ray.models.methods.st_adapter"
    name: Literal["st_adapter"] = "st_adapter"
    placement: Placement = "mlp"
    width: Annotated[int, Field(ge=1)] = 384
    head: Head = "text"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    template: Template = "A video of {}."
    normalization: Normalization = "own"

    @property
    def caches(self) -> frozenset[Cacheable]:
        """Class texts. The trained parts are inside the image tower, so frame features change."""
        return frozenset({"class_text"})


# After the last MLP only the class token is read, and that adapter changes the patches alone: as published.
METHOD_CASES = (
    MethodCase(num_trainable=4384, settings={"width": 16}, needs_vit=True, never_read=("mlp_adapters.1.",)),
    MethodCase(
        num_trainable=9028,
        label="both, linear",
        settings={"width": 16, "placement": "both", "head": "linear", "dropout": 0.0},
        needs_vit=True,
        never_read=("mlp_adapters.1.",),
    ),
    MethodCase(
        num_trainable=9028,
        label="dropout",
        settings={"width": 16, "placement": "both", "head": "linear"},
        needs_vit=True,
        is_random=True,
        never_read=("mlp_adapters.1.",),
    ),
)
