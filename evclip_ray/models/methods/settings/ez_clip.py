"""Settings of EZ-CLIP, and its conformance cases. The network is in `methods/ez_clip.py`."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from evclip_ray.models.methods.config import MethodCase, MethodConfig
from evclip_ray.models.setting_types import Normalization, Template

Prompts = Literal["deep", "shallow", "none"]
FrameLayout = Literal["by_video", "released"]
Rate = Annotated[float, Field(ge=0, lt=1)]


class EZCLIPConfig(MethodConfig):
    """Settings of EZ-CLIP.

    Attributes:
        prompts: Temporal prompts in every block ("deep"), in the first block ("shallow"), or "none": with
            adapters only, frames do not exchange information.
        temporal_adapters: Attention over time with an adapter in every image block, instead of prompts.
        frame_layout: "by_video" adds the change over time to its own frame. "released" adds it to the row
            that the release chose, which depends on the other videos of the batch; for comparison only.
        adapter_ratio: Width of an adapter as a fraction of W; parameters grow linearly with it.
        motion_weight: Weight of the motion loss; 0 removes it.
        drop_path: Rate of dropped branches in the last block; it grows linearly from 0 in the first.
        prompt_dropout: Dropout rate of the temporal prompts.
        template: Sentence with one gap {} for the class name.
        descriptions: CSV or JSON file with one text per class, used instead of `template`.
        allow_truncation: Cut descriptions that exceed the text context; otherwise they are an error.
        normalization: "own" or "imagenet" statistics for the pixels.
    """

    MODULE: ClassVar[str] = "evclip_ray.models.methods.ez_clip"
    name: Literal["ez_clip"] = "ez_clip"
    prompts: Prompts = "deep"
    # The defaults of the next two are left out of dumps, so that keys of earlier studies stay equal.
    temporal_adapters: bool = Field(False, exclude_if=lambda value: value is False)
    frame_layout: FrameLayout = Field("by_video", exclude_if=lambda value: value == "by_video")
    adapter_ratio: Annotated[float, Field(gt=0, le=4)] = 0.25
    motion_weight: Annotated[float, Field(ge=0)] = 1.0
    drop_path: Rate = 0.0
    prompt_dropout: Rate = 0.0
    template: Template = "A video of {}."
    descriptions: str | None = None
    allow_truncation: bool = False
    normalization: Normalization = "own"

    @model_validator(mode="after")
    def _temporal_parts_fit(self) -> Self:
        if self.temporal_adapters and self.prompts != "none":
            raise ValueError(
                f"method.temporal_adapters replaces the temporal prompts, but method.prompts is "
                f"{self.prompts!r}. Set method.prompts to none."
            )
        if self.frame_layout == "released" and not self.temporal_adapters:
            raise ValueError(
                "method.frame_layout=released has an effect with method.temporal_adapters only. Set "
                "method.temporal_adapters to true."
            )
        return self


METHOD_CASES = (
    MethodCase(num_trainable=9536, needs_vit=True),
    MethodCase(num_trainable=9024, label="shallow", settings={"prompts": "shallow"}, needs_vit=True),
    MethodCase(num_trainable=8512, label="no prompts", settings={"prompts": "none"}, needs_vit=True),
    MethodCase(
        num_trainable=12768,
        label="temporal adapters",
        settings={"prompts": "none", "temporal_adapters": True},
        needs_vit=True,
    ),
    MethodCase(
        num_trainable=9536,
        label="dropout",
        settings={"drop_path": 0.5, "prompt_dropout": 0.3},
        needs_vit=True,
        is_random=True,
    ),
)
