"""Settings of motion prompts, and its conformance cases. The network is in `methods/motion_prompts.py`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from evclip_ray.models.methods.config import Cacheable, MethodCase, MethodConfig
from evclip_ray.models.setting_types import Normalization, Template

Count = Annotated[int, Field(ge=1)]


class MotionPromptsConfig(MethodConfig):
    """Settings of motion prompts.

    Attributes:
        mode: "full" encodes all class texts again for each video; "late" shifts their features, which needs
            no text tower and can cache the class texts.
        num_vectors: P, learned vectors before a class name ("full").
        depth: Transformer layers per stream.
        heads: Attention heads; must divide D.
        long_step: Frames between those of a long-term difference; None takes T / 2.
        texts_at_once: Texts per chunk ("full"); a smaller value needs less memory and more time.
        template: Sentence with one gap {} for the class name.
        normalization: "own" or "imagenet" statistics for the pixels.
    """

    MODULE: ClassVar[str] = "evclip_ray.models.methods.motion_prompts"
    name: Literal["motion_prompts"] = "motion_prompts"
    mode: Literal["full", "late"] = "full"
    num_vectors: Count = 8
    depth: Count = 1
    heads: Count = 8
    long_step: Count | None = None
    texts_at_once: Count = 64
    template: Template = "A video of {}."
    normalization: Normalization = "own"

    @property
    def caches(self) -> frozenset[Cacheable]:
        """Frame features; in mode "late" class texts as well, because they are not encoded again."""
        declared: frozenset[Cacheable] = frozenset({"frame_features"})
        return declared | {"class_text"} if self.mode == "late" else declared


# A single frame has no motion. Attention over one token has no gradient but rounding for its query.
METHOD_CASES = (
    MethodCase(
        num_trainable=148181,
        settings={"num_vectors": 4},
        unread_in_one_frame=("streams.enter.weight",),
        undecided_in_one_frame=("to_text.asking.",),
    ),
    MethodCase(
        num_trainable=146693,
        label="late",
        settings={"mode": "late"},
        unread_in_one_frame=("streams.enter.weight",),
        undecided_in_one_frame=("to_text.asking.",),
    ),
)
